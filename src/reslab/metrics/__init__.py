"""Metrics: pure functions of predictions and targets, confidence intervals and paired tests."""
