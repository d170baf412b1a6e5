"""Checkpoints: file formats, key schemes, loading with full accounting, published weights."""
