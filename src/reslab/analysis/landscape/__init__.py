"""The loss landscape: directions, evaluation of points, curvature."""
