"""Reports of outages to people."""
