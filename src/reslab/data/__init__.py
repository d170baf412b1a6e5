"""Names to data sets, checks, augmentation, batches."""
