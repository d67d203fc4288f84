"""Synadia's HTTP gateway, as far as this system's users meet it."""
