"""Synadia Cloud, over its API."""
