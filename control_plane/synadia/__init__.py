"""Provision Synadia Cloud, over its API."""
