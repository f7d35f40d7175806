"""Domain encoders on disk: read, download, import."""
