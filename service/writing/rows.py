"""The interface by which a role turns each message into a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from service.dynamodb.writer import Item, Key
from service.sources.source import Message

MakeRow = Callable[[Message], Item]
"""Make the row of a message. Raises `Unreadable`."""


class Unreadable(Exception):
    """The message can never become a row, in any table."""


class Rows(Protocol):
    def batch(self) -> MakeRow:
        """Return the row maker for one batch."""
        ...

    def key(self, message: Message) -> Key:
        """Return the key of its row. Works for unreadable messages too."""
        ...
