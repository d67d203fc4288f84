"""What keeps a benchmark from running."""


class BenchmarkError(Exception):
    """What is wrong and what to do: one line."""
