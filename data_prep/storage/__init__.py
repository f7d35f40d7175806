"""Files on the local disk or at any fsspec URL: atomic writes, retries and a local cache."""
