"""Networks under a budget: found, trained, chosen."""
