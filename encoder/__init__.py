"""The E4T method: domain encoder, weight offsets, tuning and sampling. Knows no dataset, cluster or tracker."""
