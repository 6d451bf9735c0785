"""What can be trained, and what it costs."""
