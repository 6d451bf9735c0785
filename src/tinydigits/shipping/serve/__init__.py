"""The HTTP server: pictures or tensors in, answers out, and a page to draw on. It takes the extra `serve`; no torch."""
