"""Adjustments: their requests, a bank that makes many, and tills whose calls fail."""
