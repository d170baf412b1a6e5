"""Evaluation: the pass over a split, test-time augmentation, calibration, saved predictions."""
