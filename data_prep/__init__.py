"""Pictures to shards to batches. Knows files, and no model."""
