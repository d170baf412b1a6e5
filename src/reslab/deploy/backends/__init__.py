"""What computes a network's answers: torch, ONNX Runtime, OpenVINO, each behind the same call."""
