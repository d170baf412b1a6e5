"""Optimizer and schedule from a recipe, the training loop, evaluation, and the run folder."""
