"""Files of images: found in folders, recognised by content, decoded strictly, encoded for shards."""
