"""Images to shards to batches. Independent of models, clusters and trackers."""
