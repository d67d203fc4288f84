"""HTTP/2 frame by frame: a gRPC client that asks, and reads nothing of what it is sent, or sends PING.

https://httpwg.org/specs/rfc9113.html
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_HEADERS: Final = 4
END_STREAM: Final = 1
ACK: Final = 1
PING: Final = 6
GOAWAY: Final = 7


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS: Final = frame(4)


def call(method: str, request: Any, stream: int, service: str = "sqs.SQSService") -> bytes:
    """Return the frames of one gRPC call."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": f"/{service}/{method}", ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",  # codespell:ignore
    }  # fmt: skip
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    data = request.SerializeToString()
    message = b"\0" + len(data).to_bytes(4, "big") + data
    return frame(1, block, END_HEADERS, stream) + frame(0, message, END_STREAM, stream)


def connect(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(PREFACE + SETTINGS)
    return client


def unread(listen: str, method: str, request: Any, calls: int = 1) -> socket.socket:
    """Open a connection with `calls` calls, and read nothing. Closing it is how the client goes away."""
    client = connect(listen)
    for number in range(calls):
        client.sendall(call(method, request, 2 * number + 1))
    return client


class Pinger:
    """A client that sends PING as gRPC's keepalive does. Use `pinger`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.pinged = asyncio.Event()
        """Set once the server has sent a PING itself."""
        self._acknowledged = asyncio.Event()
        self._goaway = ""

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def ping(self, times: int, every_s: float) -> str:
        """Send PINGs, each `every_s` seconds after the answer to the last; return what GOAWAY said, if it came.

        So the server never reads two of them closer together, however busy the machine is.
        """
        for _ in range(times):
            if self._goaway:
                break
            self._acknowledged.clear()
            self.send(frame(PING, b"keepaliv"))
            async with asyncio.timeout(30):
                await self._acknowledged.wait()
            await asyncio.sleep(every_s)
        return self._goaway

    async def read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind == PING and flags & ACK:
                    self._acknowledged.set()
                elif kind == PING:
                    self.pinged.set()
                    self.send(frame(PING, payload, ACK))
                elif kind == GOAWAY:
                    self._end(payload[8:].decode())
        except (asyncio.IncompleteReadError, ConnectionError):
            self._end(self._goaway or "the connection is closed")

    def _end(self, said: str) -> None:
        self._goaway = said
        self._acknowledged.set()


@asynccontextmanager
async def pinger(port: int) -> AsyncIterator[Pinger]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Pinger(reader, writer)
    client.send(PREFACE + SETTINGS)
    reading = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        writer.close()
        await reading
