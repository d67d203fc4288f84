"""A stream's messages, through a consumer."""
