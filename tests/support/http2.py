"""HTTP/2 frame by frame: a gRPC client that asks, and reads nothing of what it is sent.

https://httpwg.org/specs/rfc9113.html
"""

from __future__ import annotations

import socket
from typing import Any, Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_HEADERS: Final = 4
END_STREAM: Final = 1


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS: Final = frame(4)


def call(method: str, request: Any, stream: int) -> bytes:
    """The frames of one gRPC call of the sidecar's service."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": f"/sqs.SQSService/{method}", ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
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
    """A connection with so many calls of which nothing is read. Close it: the client is gone."""
    client = connect(listen)
    for number in range(calls):
        client.sendall(call(method, request, 2 * number + 1))
    return client
