"""WebDataset shards: local and remote tar files, as datasets and streams."""
