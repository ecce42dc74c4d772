"""The steps of `prepare`: plan, verify, write shards part by part, join, publish."""
