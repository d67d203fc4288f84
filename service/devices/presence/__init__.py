"""Which devices are online, and since when."""
