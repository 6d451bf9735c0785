"""One run: its configuration, the loop, and what it leaves on disk."""
