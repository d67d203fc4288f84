"""The interface by which a role turns each message into a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from service.dynamodb.writer import Item, Key
from service.sources.source import M, M_contra

MakeRow = Callable[[M], Item]
"""Make the row of a message. Raises `Unreadable`."""


class Unreadable(Exception):
    """The message can never become a row, in any table."""


class Rows(Protocol[M_contra]):
    def batch(self) -> MakeRow[M_contra]:
        """Return the row maker for one batch."""

    def key(self, message: M_contra) -> Key:
        """Return the key of its row. Works for unreadable messages too."""
