"""Read shards as batches in one global, resumable order."""
