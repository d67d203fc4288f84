"""A cheap MQTT 3.1.1 client, for ten thousand connections in one process.

https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html (section numbers below refer to it).
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

TIMEOUT_S: Final = 30.0
_CONNECT: Final = 0x10
_PUBLISH: Final = 0x30
_PUBACK: Final = 0x40
_SUBSCRIBE: Final = 0x82
_PINGREQ: Final = b"\xc0\x00"
_DISCONNECT: Final = b"\xe0\x00"
_DUP: Final = 0x08
_REFUSED: Final = 0x80
"""Return code of a SUBACK."""
CODES: Final = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not take this client id",
    3: "it is not available",
    4: "user or password are wrong",
    5: "this user may not connect",
}
"""Return codes of a CONNACK (3.2.2.3)."""

OnMessage = Callable[[str, bytes], None]


class Refused(ConnectionError):
    """The server answered CONNECT with this return code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the MQTT server refused the connection: {CODES.get(code, 'for an unknown reason')} ({code})")
        self.code = code


@dataclass(frozen=True)
class Will:
    """A message that the server publishes when the connection ends without DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1


class Mqtt(asyncio.Protocol):
    """One connection. `closed` is done once it has ended, for whatever reason."""

    def __init__(self, on_message: OnMessage | None, unacknowledged: Mapping[int, bytes]) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.unacknowledged = dict(unacknowledged)
        """Packet id -> PUBLISH of QoS 1 without a PUBACK. Pass this to the next connection, which sends it again."""
        self.acknowledged = 0
        self.session_present = False
        self._on_message = on_message
        self._waiting: dict[int, asyncio.Future[int]] = {}
        """Packet id -> future of its acknowledgement; 0 is the connection's."""
        self._id = 0
        self._rest = b""
        self._ping: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        client_id: str,
        *,
        user: str = "",
        password: str = "",
        will: Will | None = None,
        keepalive_s: int = 60,
        clean: bool = True,
        tls: ssl.SSLContext | None = None,
        on_message: OnMessage | None = None,
        unacknowledged: Mapping[int, bytes] = {},
    ) -> Mqtt:
        """Connect, and send again what the last connection left `unacknowledged`.

        Raise `Refused` with the server's return code, or `OSError` or `TimeoutError` if there is no answer.
        """
        _, mqtt = await asyncio.get_running_loop().create_connection(
            lambda: cls(on_message, unacknowledged), host, port, ssl=tls
        )
        mqtt._transport.write(_connect(client_id, user, password, will, keepalive_s, clean=clean))
        try:
            code = await mqtt._answer(0)
        except BaseException:
            mqtt.abort()
            raise
        if code:
            mqtt.abort()
            raise Refused(code)
        if keepalive_s:
            mqtt._ping_in(keepalive_s / 2)
        for packet in mqtt.unacknowledged.values():
            mqtt._transport.write(bytes((packet[0] | _DUP,)) + packet[1:])
        return mqtt

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish, and wait for the PUBACK at QoS 1. Raise `ConnectionError` or `TimeoutError` if it does not come."""
        if number := self.send(topic, payload, qos):
            await self._answer(number)

    def send(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> int:
        """Publish without waiting; return the packet id, or 0 at QoS 0. `acknowledged` counts the PUBACKs."""
        number = self._next_id() if qos else 0
        body = _text(topic) + (struct.pack("!H", number) if qos else b"") + payload
        packet = _packet(_PUBLISH | qos << 1 | retain, body)
        if qos:
            self.unacknowledged[number] = packet
        self._transport.write(packet)
        return number

    async def subscribe(self, topic: str, qos: int = 0) -> None:
        """Subscribe. Raise `PermissionError` if the server refuses."""
        number = self._next_id()
        self._transport.write(_packet(_SUBSCRIBE, struct.pack("!H", number) + _text(topic) + bytes((qos,))))
        if await self._answer(number) == _REFUSED:
            raise PermissionError(f"the MQTT server refused the subscription to {topic}")

    async def disconnect(self) -> None:
        """Disconnect cleanly: the server publishes no will."""
        self._transport.write(_DISCONNECT)
        self._transport.close()
        await self.closed

    def abort(self) -> None:
        """Drop the connection, like a device that loses power: the server publishes the will."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ping:
            self._ping.cancel()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the MQTT server closed the connection"))
        if not self.closed.done():
            self.closed.set_result(exc)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        for kind, start, end in _packets(data):
            self._take(kind, data[start:end])
            at = end
        self._rest = data[at:]

    def _take(self, kind: int, body: bytes) -> None:
        match kind & 0xF0:
            case 0x40:
                number = int.from_bytes(body)
                self.acknowledged += self.unacknowledged.pop(number, None) is not None
                self._tell(number, 0)
            case 0x30:
                length = int.from_bytes(body[:2])
                payload = 2 + length + (2 if kind & 6 else 0)
                if kind & 6:
                    self._transport.write(_packet(_PUBACK, body[2 + length : payload]))
                if self._on_message:
                    self._on_message(body[2 : 2 + length].decode(), body[payload:])
            case 0x20:
                self.session_present = bool(body[0])
                self._tell(0, body[1])
            case 0x90:
                self._tell(int.from_bytes(body[:2]), body[2])

    def _tell(self, number: int, code: int) -> None:
        if (waiting := self._waiting.get(number)) and not waiting.done():
            waiting.set_result(code)

    async def _answer(self, number: int) -> int:
        if self.closed.done():
            raise ConnectionResetError("the MQTT connection is closed")
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await waiting
        finally:
            del self._waiting[number]

    def _next_id(self) -> int:
        self._id = self._id % 0xFFFF + 1
        while self._id in self.unacknowledged or self._id in self._waiting:
            self._id = self._id % 0xFFFF + 1
        return self._id

    def _ping_in(self, seconds: float) -> None:
        self._ping = asyncio.get_running_loop().call_later(seconds, self._ping_now, seconds)

    def _ping_now(self, every_s: float) -> None:
        self._transport.write(_PINGREQ)
        self._ping_in(every_s)


def _connect(client_id: str, user: str, password: str, will: Will | None, keepalive_s: int, *, clean: bool) -> bytes:
    flags = (0x80 if user else 0) | (0x40 if password else 0) | (0x02 if clean else 0)
    last = b""
    if will:
        flags |= 0x04 | will.qos << 3
        last = _text(will.topic) + struct.pack("!H", len(will.payload)) + will.payload
    given = b"".join(_text(each) for each in (user, password) if each)
    return _packet(
        _CONNECT, _text("MQTT") + struct.pack("!BBH", 4, flags, keepalive_s) + _text(client_id) + last + given
    )


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!H", len(encoded)) + encoded


def _packet(kind: int, body: bytes) -> bytes:
    length, left = b"", len(body)
    while left > 0x7F:
        length += bytes((left & 0x7F | 0x80,))
        left >>= 7
    return bytes((kind,)) + length + bytes((left,)) + body


def _packets(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield first byte, start and end of each complete packet (2.2)."""
    at = 0
    while at + 1 < len(data):
        start, length, shift = at + 1, 0, 0
        while start < len(data):
            byte = data[start]
            length |= (byte & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if byte < 0x80:
                break
        else:
            return
        if start + length > len(data):
            return
        yield data[at], start, start + length
        at = start + length
