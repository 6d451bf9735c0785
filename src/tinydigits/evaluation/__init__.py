"""What a model does on digits."""
