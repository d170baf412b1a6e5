"""Inference backends: torch, ONNX Runtime and OpenVINO behind the same call."""
