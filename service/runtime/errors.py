"""The error that ends a process.

ServiceError            the process cannot start or continue: one line and a non-zero exit
  NoAnswer              nothing said why not
"""

from __future__ import annotations


class ServiceError(Exception):
    """Stops the process with one line that names the problem and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class NoAnswer(ServiceError):
    """There was no answer within the time that one takes."""
