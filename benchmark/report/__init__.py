"""A result: its file, its tables, its page, and whether it is good enough."""
