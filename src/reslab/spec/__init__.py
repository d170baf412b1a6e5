"""Frozen values that describe networks, recipes and studies. Standard library only, importable without torch."""
