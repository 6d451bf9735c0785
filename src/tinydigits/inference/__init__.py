"""Reading digits with NumPy alone: no torch."""
