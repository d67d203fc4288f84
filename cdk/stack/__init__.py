"""The stack, and what it is made of."""
