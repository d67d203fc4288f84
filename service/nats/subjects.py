"""NATS subjects with wildcards: https://docs.nats.io/nats-concepts/subjects#wildcards"""

from __future__ import annotations

from itertools import zip_longest


def covers(pattern: str, subject: str) -> bool:
    """Return whether `pattern` matches every subject that `subject` matches."""
    for wanted, given in zip_longest(pattern.split("."), subject.split(".")):
        if wanted == ">":
            return given is not None
        if given is None or given == ">" or wanted not in {given, "*"}:
            return False
    return True


def overlap(one: str, other: str) -> bool:
    """Return whether any subject matches both."""
    for left, right in zip_longest(one.split("."), other.split(".")):
        if left is None or right is None:
            return False
        if ">" in {left, right}:
            return True
        if left != right and "*" not in {left, right}:
            return False
    return True
