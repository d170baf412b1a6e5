"""Image transforms and batch augmentation."""
