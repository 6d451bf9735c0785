"""C99 from a graph."""
