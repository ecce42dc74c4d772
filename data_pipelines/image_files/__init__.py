"""Image files: found in folders, recognised by content, strictly decoded, encoded for shards."""
