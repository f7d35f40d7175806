"""Read files of a source: on the local disk, from HTTP servers and from any store that fsspec opens."""
