"""``e4t app``: a web page that tunes a concept on one image and generates images of it."""
