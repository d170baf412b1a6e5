"""The description made into modules."""
