"""Files on disk or behind any fsspec URL: atomic writes, retries and a local cache."""
