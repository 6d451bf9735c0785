"""What a network costs and does."""
