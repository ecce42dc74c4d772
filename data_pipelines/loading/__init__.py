"""From sample positions to uint8 batches: sampling order, crops, RandAugment and the two loaders."""
