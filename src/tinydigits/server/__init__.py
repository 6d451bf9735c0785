"""The HTTP server: it reads pictures or tensors, and has a page to draw on. Needs the extra `serve`, not torch."""
