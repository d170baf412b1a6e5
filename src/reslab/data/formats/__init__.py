"""Dataset formats: image folders, CSV, CIFAR, ImageNet and the small bundled datasets."""
