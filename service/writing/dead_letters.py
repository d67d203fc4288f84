"""The interface to the place for messages that can never become a row."""

from __future__ import annotations

from typing import Protocol

from service.sources.source import Message


class DeadLetters(Protocol):
    async def put(self, message: Message, reason: str) -> str:
        """Keep the message and the reason why it is not a row. Return why it was not kept, or ''."""
        ...
