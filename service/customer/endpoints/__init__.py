"""One endpoint per file: its input, its work and its reply."""
