"""The three demonstrations: each shows something, checks it and cleans up."""
