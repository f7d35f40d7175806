"""The method: tensors in, tensors out. Knows no shard, no cluster, no tracker."""
