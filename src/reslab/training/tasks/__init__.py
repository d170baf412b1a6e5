"""The tasks in training: targets, losses, metrics and results, one module a task."""
