"""Requests, from delivery to reply: credit, dispatch, bursts, errors."""
