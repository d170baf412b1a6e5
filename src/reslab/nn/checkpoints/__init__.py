"""Checkpoints: file formats, key schemes, loading with a full report, published weights."""
