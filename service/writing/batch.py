"""The rows of one call of BatchWriteItem, each with its messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Generic

import structlog

from service.dynamodb.writer import MAX_BYTES, MAX_ITEMS, Item, Key
from service.sources.source import M
from service.writing.rows import MakeRow, Unreadable

log: Final = structlog.get_logger("service.archive")


@dataclass(slots=True)
class Batch(Generic[M]):
    rows: dict[Item, list[M]] = field(default_factory=dict)
    """Each row -> its messages: a message delivered twice is one row."""
    size: int = 0
    """Bytes of its encoded rows."""
    unreadable: list[tuple[M, str]] = field(default_factory=list)
    """Messages that cannot become a row, each with the reason."""

    def messages(self) -> list[M]:
        return [
            *(message for messages in self.rows.values() for message in messages),
            *(message for message, _ in self.unreadable),
        ]


def next_batch(waiting: deque[M], make: MakeRow[M]) -> Batch[M]:
    """Take the messages of one call off `waiting`, each key once: DynamoDB refuses a batch with a duplicate key."""
    batch: Batch[M] = Batch()  # not Batch[M](), which costs 1 us more
    items: dict[Key, Item] = {}
    while waiting and len(items) + len(batch.unreadable) < MAX_ITEMS:
        message = waiting[0]
        if items and batch.size + message.size > MAX_BYTES:
            break
        try:
            item = make(message)
        except Exception as error:  # one bad message must not block the others
            batch.unreadable.append((message, _why_unreadable(error, message)))
        else:
            if same := items.get(item.key):
                batch.rows[same].append(message)
            elif items and batch.size + len(item.encoded) > MAX_BYTES:  # as JSON a control character is six bytes
                break
            else:
                batch.size += len(item.encoded)
                items[item.key] = item
                batch.rows[item] = [message]
        waiting.popleft()
    return batch


def _why_unreadable(error: Exception, message: M) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    log.error("a message cannot be encoded", id=message.id, exc_info=error)
    return f"cannot be encoded: {type(error).__name__}"
