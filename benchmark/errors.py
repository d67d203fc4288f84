"""The error that ends a benchmark."""


class BenchmarkError(Exception):
    """The benchmark cannot run; the message is one line with the problem and what to do."""
