"""Images on disk to uint8 batches: shards, order, augmentation and loaders, each a pure function of its arguments."""
