"""The durable pull consumer that a queue is: how it is configured, and whether it is still the same."""

from __future__ import annotations

from collections.abc import Sequence

import nats.errors
from nats.js.api import AckPolicy, ConsumerInfo
from nats.js.errors import APIError, NotFoundError

from service.runtime import jetstream
from service.runtime.connection import Connection
from service.runtime.errors import ServiceError
from service.sources.receipt import Receipt, Receipts
from service.sources.source import Unavailable


class Consumer:
    """`look` is called before anything else."""

    def __init__(self, connection: Connection, stream: str, name: str) -> None:
        self._connection = connection
        self._stream = stream
        self._name = name
        self._is_known = False
        self.ack_wait_s = 0.0
        self.id = 0
        """When it was made, in microseconds: one that is made anew has another."""
        self.receipts = Receipts(name, 0)
        self.sequence = 0
        """The last of its deliveries that this sidecar has seen, as it counts them."""

    async def look(self) -> str:
        """Returns what `--check` says. Raises `ServiceError` when it is missing, or is none that can be a queue."""
        what = f"consumer {self._name} of stream {self._stream}"
        try:
            info = await self._info()
        except NotFoundError:
            raise ServiceError(f"{what} does not exist", jetstream.PROVISION) from None
        except (nats.errors.Error, APIError) as error:
            raise jetstream.explain(what, error) from None
        if info.config.deliver_subject or info.config.ack_policy != AckPolicy.EXPLICIT:
            raise ServiceError(
                f"{what} is no pull consumer with explicit acknowledgements",
                "correct it with `python -m control_plane create`",
            )
        self.ack_wait_s = float(info.config.ack_wait or 30.0)
        self.id = int(info.created.timestamp() * 1_000_000)
        self.receipts = Receipts(self._name, self.id)
        self._is_known = True
        return f"backlog {_backlog(info)}"

    def is_gone(self) -> None:
        """What comes next may come from another one of the same name."""
        self._is_known = False

    async def recognise(self, receipts: Sequence[Receipt], newest: int) -> None:
        """See that these are its deliveries: one that is made anew counts from 1 again.

        `newest` was the last one when they were asked for. Raises `ServiceError`.
        """
        if not receipts:
            return
        numbers = [receipt.consumer_sequence for receipt in receipts]
        if not self._is_known or min(numbers) <= newest:
            await self.look()
            self.sequence = 0
        self.sequence = max(self.sequence, *numbers)

    async def backlog(self) -> int:
        """Raises `Unavailable`."""
        try:
            return _backlog(await self._info())
        except (nats.errors.Error, APIError) as error:
            raise Unavailable(f"the consumer cannot be read ({error}); call again") from None

    async def last_delivered(self) -> int:
        """The last sequence of the stream that was delivered to anyone; -1 when it cannot be told."""
        try:
            info = await self._info()
        except (nats.errors.Error, APIError):
            return -1
        return info.delivered.stream_seq if info.delivered else -1

    async def _info(self) -> ConsumerInfo:
        info: ConsumerInfo = await self._connection.jetstream.consumer_info(self._stream, self._name)
        return info


def _backlog(info: ConsumerInfo) -> int:
    return (info.num_pending or 0) + (info.num_ack_pending or 0)
