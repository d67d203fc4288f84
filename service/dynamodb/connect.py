"""A connection to one origin: its addresses are raced, a proxy is passed, TLS is verified."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from aiohappyeyeballs import start_connection

from service.dynamodb.errors import HttpError

RACE_S: Final = 0.25
"""An address that has not answered for so long is raced by the next: https://www.rfc-editor.org/rfc/rfc8305#section-5

uvloop's `create_connection` tries them one after another, and refuses `happy_eyeballs_delay`.
"""
MAX_HEAD: Final = 64 * 1024
"""Bytes of a proxy's answer to CONNECT."""
_CORRECT: Final = "correct AWS_REGION or AWS_ENDPOINT_URL_DYNAMODB"

AProtocol = TypeVar("AProtocol", bound=asyncio.Protocol)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, spoken to without TLS."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """Its header line with CRLF, if it has one."""


@dataclass(frozen=True)
class Origin:
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: Proxy | None = None


async def connect(origin: Origin, make: Callable[[], AProtocol], deadline: float) -> AProtocol:
    """Connect by `deadline`, a time of the loop's clock. Raises `TimeoutError`, and `HttpError` with the cause."""
    name = f"{origin.host}:{origin.port}"
    via = f"proxy {origin.proxy.host}:{origin.proxy.port}" if origin.proxy else name
    try:
        async with asyncio.timeout_at(deadline):
            return await _connect(origin, make)
    except TimeoutError:
        raise TimeoutError(f"no connection to {via} in time") from None
    except socket.gaierror as error:
        where, remedy = (via, "correct HTTPS_PROXY") if origin.proxy else (origin.host, _CORRECT)
        raise HttpError(f"{where} does not resolve ({error.strerror})", f"{remedy}, or see the DNS") from error
    except ssl.SSLCertVerificationError as error:
        raise HttpError(
            f"the certificate of {name} is not trusted ({error.verify_message})",
            "give its authority in AWS_CA_BUNDLE, or correct AWS_ENDPOINT_URL_DYNAMODB",
        ) from error
    except ConnectionRefusedError as error:
        remedy = "correct HTTPS_PROXY" if origin.proxy else _CORRECT
        raise HttpError(f"{via} refuses connections", f"see what listens there, or {remedy}") from error
    except (OSError, RuntimeError) as error:  # aiohappyeyeballs and uvloop raise either
        raise HttpError(f"no connection to {via}: {error}") from error


async def _connect(origin: Origin, make: Callable[[], AProtocol]) -> AProtocol:
    loop = asyncio.get_running_loop()
    first = origin.proxy or origin
    addresses = await loop.getaddrinfo(first.host, first.port, type=socket.SOCK_STREAM)
    found = await start_connection(addresses, happy_eyeballs_delay=RACE_S, loop=loop)
    try:
        if origin.proxy and origin.tls:
            await _tunnel(found, origin, origin.proxy)
    except BaseException:
        found.close()
        raise
    _, connection = await loop.create_connection(
        make, sock=found, ssl=origin.tls, server_hostname=origin.host if origin.tls else None
    )
    return connection


async def _tunnel(through: socket.socket, origin: Origin, proxy: Proxy) -> None:
    """https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6"""
    loop = asyncio.get_running_loop()
    name = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    asked = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{proxy.authorization}\r\n"
    await loop.sock_sendall(through, asked.encode())
    head = b""
    while b"\r\n\r\n" not in head:
        part = await loop.sock_recv(through, 4096)
        head += part
        if not part or len(head) > MAX_HEAD:
            break
    said = head.partition(b"\r\n")[0].decode("ascii", "replace")[:100]
    version, _, status = said.partition(" ")
    if not (version.startswith("HTTP/1.") and status[:1] == "2" and head.endswith(b"\r\n\r\n")):
        raise HttpError(
            f"proxy {proxy.host}:{proxy.port} gives no way to {name} ({said or 'it hung up'})",
            "correct HTTPS_PROXY, or name the host in NO_PROXY",
        )
