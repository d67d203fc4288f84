"""Which devices are there, and since when."""
