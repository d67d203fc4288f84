"""The stack and its parts."""
