"""What a role gives to have its source's messages written: the row of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from service.dynamodb.writer import Item, Key
from service.sources.source import Message

MakeRow = Callable[[Message], Item]
"""Raises `Unreadable`."""


class Unreadable(Exception):
    """A message that can be no row, whatever the table says."""


class Rows(Protocol):
    def batch(self) -> MakeRow:
        """What makes the rows of one batch."""
        ...

    def key(self, message: Message) -> Key:
        """The key of its row, which a message has that can be no row too."""
        ...
