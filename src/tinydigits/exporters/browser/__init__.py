"""One HTML page from a graph."""
