"""Results turned into something to look at; reads plain data and imports no torch."""
