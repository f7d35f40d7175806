"""Turn a source of images into webdataset shards with a manifest."""
