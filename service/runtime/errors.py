"""The error that ends a process.

ServiceError            the process cannot start or continue: one line and a non-zero exit
  NoAnswer              no answer came in time
"""

from __future__ import annotations


class ServiceError(Exception):
    """Stops the process with one line that names the problem and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class NoAnswer(ServiceError):
    """No answer came in time."""
