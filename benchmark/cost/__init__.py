"""Measure what one request, one row and one message cost, beside the peers."""
