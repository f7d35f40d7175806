"""Read archives and webdataset shards in place."""
