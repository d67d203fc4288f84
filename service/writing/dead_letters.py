"""Where a message goes that can never become a row."""

from __future__ import annotations

from typing import Protocol

from service.sources.source import Message


class DeadLetters(Protocol):
    async def put(self, message: Message, reason: str) -> str:
        """Keep the message and why it is no row. Returns why it was not kept; empty: it was."""
        ...
