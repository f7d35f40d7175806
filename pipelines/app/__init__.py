"""``e4t app``: a page where a person teaches a release one picture, watches it learn, and paints."""
