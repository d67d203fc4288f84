"""The NATS protocol, byte by byte: what a client library would never send, sent with a user's credentials.

https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import nkeys
import orjson

_BLOCK: Final = re.compile(r"-----BEGIN [^-]+-----\s*(\S+)\s*-+END")
LIMIT_BYTES: Final = 1 << 22


def pub(subject: bytes, payload: bytes = b"", reply: bytes = b"") -> bytes:
    return b"PUB %b%b %d\r\n%b\r\n" % (subject, b" " + reply if reply else b"", len(payload), payload)


def hpub(subject: bytes, header: bytes, payload: bytes = b"", reply: bytes = b"") -> bytes:
    """Return a frame. `header` is the whole header part, valid or not."""
    sizes = b"%d %d" % (len(header), len(header) + len(payload))
    return b"HPUB %b%b %b\r\n%b%b\r\n" % (subject, b" " + reply if reply else b"", sizes, header, payload)


class Wire:
    """One connection. With `verbose`, the server acknowledges each frame that it accepts. Use `wire`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted = 0
        self.errors: list[bytes] = []
        self.messages: asyncio.Queue[tuple[bytes, bytes, bytes]] = asyncio.Queue()
        """Return subject, header part and payload of a delivered message."""
        self._reader = reader
        self._writer = writer
        self._pongs = asyncio.Semaphore(0)
        self._reading = asyncio.create_task(self._read())

    @property
    def closed(self) -> bool:
        """Return whether the server has ended the connection, as it does after a frame that it cannot read."""
        return self._reading.done()

    def send(self, frame: bytes) -> None:
        self._writer.write(frame)

    async def roundtrip(self) -> bool:
        """Return whether the server has read all that was sent; False if it ended the connection instead."""
        self._writer.write(b"PING\r\n")
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        pong = asyncio.create_task(self._pongs.acquire())
        await asyncio.wait({pong, self._reading}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        answered = pong.done()
        pong.cancel()
        return answered

    async def close(self) -> None:
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await self._reader.readline():
                verb, _, rest = line.rstrip(b"\r\n").partition(b" ")
                if verb == b"+OK":
                    self.accepted += 1
                elif verb == b"-ERR":
                    self.errors.append(rest)
                elif verb == b"PING":
                    self._writer.write(b"PONG\r\n")
                elif verb == b"PONG":
                    self._pongs.release()
                elif verb in {b"MSG", b"HMSG"}:
                    await self._deliver(rest.split(b" "), headers=verb == b"HMSG")

    async def _deliver(self, words: list[bytes], *, headers: bool) -> None:
        total = int(words[-1])
        header = int(words[-2]) if headers else 0
        body = await self._reader.readexactly(total + 2)
        self.messages.put_nowait((words[0], body[:header], body[header:total]))


@asynccontextmanager
async def wire(url: str, creds: str, *, verbose: bool = True) -> AsyncIterator[Wire]:
    """Open a connection as the user of this `.creds` file."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=LIMIT_BYTES)
    info = orjson.loads((await reader.readline()).partition(b" ")[2])
    token, seed = _BLOCK.findall(creds)
    signature = base64.urlsafe_b64encode(nkeys.from_seed(bytearray(seed.encode())).sign(info["nonce"].encode()))
    options = {
        "verbose": verbose, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1,
        "lang": "raw", "version": "0", "jwt": token, "sig": signature.rstrip(b"=").decode(),
    }  # fmt: skip
    connection = Wire(reader, writer)
    try:
        connection.send(b"CONNECT %b\r\n" % orjson.dumps(options))
        assert await connection.roundtrip(), connection.errors
        connection.accepted = 0
        yield connection
    finally:
        await connection.close()
