"""nats-py's client, hardened against whatever a peer or a failing server may send.

In nats-py 2.16 an error may end the task that reads or writes, and the client does not notice: it reports that it is
connected and stays silent. Here

| event | effect |
| --- | --- |
| a message whose subject, reply or headers cannot be decoded | dropped, and counted in `undecodable` |
| a PONG whose `flush` has timed out | taken as the answer to that PING |
| the reading, writing or pinging task ends without being cancelled | counted in `loops_ended`; the client reconnects |
| the client is closed, by whichever side | `on_closed` is called once |

`link/reconnect.py` describes how it reconnects. Each override of a nats-py method, here or there, names after
"Upstream:" the fault it works around. Releases up to 2.16 have all of these faults; remove an override with the first
release without its fault.

A grant is a queue subscription for a limited number of messages. It is lighter than nats-py's subscription: it has no
task and no queue, and it ends with its connection.

Everything posted in one turn of the event loop leaves in one write.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol import command

from service.nats.link.reconnect import ReconnectingClient
from service.nats.link.transport import Tcp
from service.nats.parser import Callback, Parser

SPENT_S: Final = 10.0
"""Seconds. A spent grant still delivers for this long: a busy server may send more between SUB and UNSUB."""


def header_block(headers: Mapping[str, str]) -> bytes:
    """Encode headers for the wire. Names and values must come from the service itself: they are not checked."""
    return b"NATS/1.0\r\n%b\r\n" % header_lines(headers)


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Encode each header as a line that ends with CRLF."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def sizes_of(texts: Sequence[str]) -> list[int]:
    """Return the size of each text on the wire, in bytes. ASCII, the usual case, needs no encoding."""
    return list(map(len, texts if "".join(texts).isascii() else [text.encode() for text in texts]))


class NatsClient(ReconnectingClient):
    """See above. Calls `on_undecodable(error)` for each message that it drops."""

    def __init__(
        self,
        on_undecodable: Callable[[Exception], None] = lambda _: None,
        on_closed: Callable[[], None] = lambda: None,
        on_odd_server: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(on_odd_server)
        self.undecodable = 0
        self.loops_ended = 0
        self._on_undecodable = on_undecodable
        self._on_closed = on_closed
        self._callbacks: dict[str, Callback] = {}
        """sid -> callback, of each grant and of each nats-py subscription that `deliver` was called for."""
        self._is_writing = False
        """Whether `_write_pending` is about to run."""
        self._grants: set[str] = set()
        self._spent: deque[tuple[float, str]] = deque()
        self.on_lost: list[Callable[[], None]] = []
        """Each is called when the connection is lost."""
        self.on_reconnected: list[Callable[[], None]] = []
        self._parser = self._ps = Parser(self, self._callbacks, self.drop)

    def deliver(self, subscription: Subscription, callback: Callback) -> None:
        """Pass a subscription's messages to `callback` straight from the wire: no queue, no coroutine, no decoding.

        If the callback raises, that counts as one dropped message, however many it was given.
        """
        self._callbacks[str(subscription._id)] = callback

    def end_delivery(self, subscription: Subscription) -> None:
        """Forget the callback of a subscription that has ended. Until this call, late messages still reach it."""
        self._callbacks.pop(str(subscription._id), None)

    def post(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Publish without a coroutine. `headers` must be encoded (`header_block`).

        Raise `nats.errors.Error` where `publish` does, and if nats-py's write buffer is full. The subjects are not
        validated.
        """
        self._check(len(payload))
        if headers:
            frame = command.hpub_cmd(subject, reply, headers, payload)
        else:
            frame = command.pub_cmd(subject, reply, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._append(frame)

    def post_each(self, subjects: Sequence[str], payload: bytes) -> None:
        """Publish one payload to each subject, as `post` does, at a fraction of the cost."""
        if not subjects:
            return
        self._check(len(payload))
        self.stats["out_msgs"] += len(subjects)
        self.stats["out_bytes"] += len(payload) * len(subjects)
        rest = b" %d\r\n%b\r\n" % (len(payload), payload)
        self._append(b"".join([b"PUB %b%b" % (subject.encode(), rest) for subject in subjects]))

    def post_frames(self, frames: str, sizes: Sequence[int]) -> None:
        """Publish encoded frames, as `post` does: all or none. `sizes` are those of their payloads, in bytes."""
        self._check(max(sizes))
        self.stats["out_msgs"] += len(sizes)
        self.stats["out_bytes"] += sum(sizes)
        frame = frames.encode()
        # The first lone frame of a turn leaves at once: its requester need not wait for what the handler does next.
        if len(sizes) > 1 or self._is_writing or self._pending or not self._write([frame]):
            self._append(frame)
        else:
            self._write_soon()

    def grant(self, subject: str, queue: str, limit: int, callback: Callback) -> str:
        """Let the server deliver `limit` messages. Call this only while connected: a grant ends with its connection.

        Return its sid. The limit is an UNSUB right after the SUB:
        https://docs.nats.io/reference/reference-protocols/nats-protocol#unsub
        """
        while self._spent and time.monotonic() - self._spent[0][0] > SPENT_S:
            self._callbacks.pop(self._spent.popleft()[1], None)
        self._sid += 1
        sid = str(self._sid)
        self._callbacks[sid] = callback
        self._grants.add(sid)
        self._append(command.sub_cmd(subject, queue, self._sid) + command.unsub_cmd(self._sid, limit))
        return sid

    def spend(self, sid: str) -> None:
        """Mark a grant as used up. Messages that arrive within `SPENT_S` seconds are still delivered."""
        self._grants.discard(sid)
        self._spent.append((time.monotonic(), sid))

    def end_grant(self, sid: str) -> None:
        """End a grant before it is used up. Messages on their way are still delivered."""
        self._append(command.unsub_cmd(int(sid), 0))
        self.spend(sid)

    async def end_grants(self) -> None:
        """End all grants; return when every message that the server had sent is processed.

        Raise `nats.errors.Error` if the server does not confirm it.
        """
        if not self.is_connected:
            return
        for sid in self._grants:
            self._append(command.unsub_cmd(int(sid), 0))
        await roundtrip(self)  # the server answers in order: no message follows its answer

    def _check(self, size: int) -> None:
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        if self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        if size > self._max_payload:
            raise nats.errors.MaxPayloadError

    def _append(self, frame: bytes) -> None:
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            asyncio.get_running_loop().call_soon(self._write_pending)

    def _write_pending(self) -> None:
        """Write at the end of this turn of the event loop; leave to nats-py's flusher what has to wait.

        Waking the flusher costs several times as much as this call.
        """
        self._is_writing = False
        if not self._pending or not self.is_connected or self._flush_queue is None:
            return
        if self._write(self._pending):
            self._pending, self._pending_data_size = [], 0
        elif self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def _write(self, frames: list[bytes]) -> bool:
        return self.is_connected and isinstance(self._transport, Tcp) and self._transport.write_now(frames)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Upstream: a message that cannot be decoded ends the reading task."""
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:
            self.drop(error)

    def drop(self, error: Exception) -> None:
        """Count and report a message that cannot be decoded."""
        self.undecodable += 1
        self._on_undecodable(error)

    async def _process_pong(self) -> None:
        """Upstream: a PONG whose `flush` has timed out sets the result of a done future, which raises."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _read_loop(self) -> None:
        """Upstream: an unexpected error ends the loop, and the client still says that it is connected."""
        await super()._read_loop()
        await self._notice_end(self._reading_task)

    async def _flusher(self) -> None:
        """Upstream: the same as `_read_loop`."""
        await super()._flusher()
        await self._notice_end(self._flusher_task)

    async def _ping_interval(self) -> None:
        """Upstream: the same as `_read_loop`."""
        await super()._ping_interval()
        await self._notice_end(self._ping_interval_task)

    async def _notice_end(self, current: asyncio.Task[None] | None) -> None:
        """Reconnect if the loop ended without being cancelled: nats-py's loops swallow their cancellation."""
        task = asyncio.current_task()
        if task is current and task is not None and not task.cancelling() and self.is_connected:
            self.loops_ended += 1
            await self._process_op_err(nats.errors.ProtocolError())

    def connection_lost(self) -> None:
        for sid in (*self._grants, *[sid for _, sid in self._spent]):
            self._callbacks.pop(sid, None)
        self._grants.clear()
        self._spent.clear()
        # An unsent grant must not reach the next server. nats-py's own subscriptions are made again without these.
        self._pending = [frame for frame in self._pending if not frame.startswith((b"SUB ", b"UNSUB "))]
        self._pending_data_size = sum(map(len, self._pending))
        for call in self.on_lost:
            call()

    def connection_restored(self) -> None:
        for call in self.on_reconnected:
            call()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Upstream: without a server, pending data is written to the dead connection; some ends call no callback."""
        was_closed = self.is_closed
        if not self.is_connected:
            self._pending, self._pending_data_size = [], 0
        try:
            await super()._close(status, do_cbs)
        finally:
            if status == Client.CLOSED and not was_closed:
                self._on_closed()


async def roundtrip(nc: Client) -> None:
    """Return when the server has processed everything sent so far.

    nats-py's `flush` writes its PING at once, ahead of publishes and subscriptions still in its buffer, so the first
    PONG proves nothing. The second PING follows them.
    """
    await nc.flush()
    await nc.flush()
