"""From sample positions to uint8 batches: order, crops, RandAugment and the two loaders."""
