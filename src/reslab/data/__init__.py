"""Datasets by name or path, transforms, samplers, loaders, and checks of data."""
