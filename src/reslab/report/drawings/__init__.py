"""Drawings of networks and their blocks, from the grammar alone."""
