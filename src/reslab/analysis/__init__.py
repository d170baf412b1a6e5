"""Measurements of a network. Each returns plain data and never draws."""
