"""Optimizer and schedule from a recipe, the one loop, evaluation, and the run folder."""
