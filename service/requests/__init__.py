"""Requests from their delivery to their reply: credit, dispatch, bursts, errors."""
