"""An endpoint a file: what it takes, does and replies."""
