"""Connect to one origin: race its addresses, go through a proxy, verify TLS."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from aiohappyeyeballs import start_connection

from service.dynamodb.errors import HttpError

RACE_S: Final = 0.25
"""Delay before the next address is tried in parallel: https://www.rfc-editor.org/rfc/rfc8305#section-5

uvloop's `create_connection` tries them one after another, and refuses `happy_eyeballs_delay`.
"""
MAX_HEAD: Final = 64 * 1024
"""Largest answer of a proxy to CONNECT, in bytes."""
PROXY_REMEDY: Final = "correct HTTPS_PROXY or HTTP_PROXY, or name the host in NO_PROXY"
_CORRECT: Final = "correct AWS_REGION or AWS_ENDPOINT_URL_DYNAMODB"
_PROXY: Final = "correct HTTPS_PROXY or HTTP_PROXY"
_OF_TIME: Final = {9, 10}
_OF_THE_NAME: Final = {62, 64}
"""OpenSSL's error codes for time and name: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/#error-codes"""
_head_ends: Final = re.compile(rb"\r?\n\r?\n").search
"""A recipient may accept a bare LF: https://www.rfc-editor.org/rfc/rfc9112#section-2.2-3"""

AProtocol = TypeVar("AProtocol", bound=asyncio.Protocol)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, reached without TLS."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """Its Proxy-Authorization header line with CRLF, or ''."""


@dataclass(frozen=True)
class Origin:
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: Proxy | None = None


async def connect(origin: Origin, make: Callable[[], AProtocol], deadline: float) -> AProtocol:
    """Connect by `deadline`, a time of the loop's clock. Raise `TimeoutError`, or `HttpError` with the cause."""
    name = f"{origin.host}:{origin.port}"
    via = f"proxy {origin.proxy.host}:{origin.proxy.port}" if origin.proxy else name
    try:
        async with asyncio.timeout_at(deadline):
            return await _connect(origin, make)
    except TimeoutError:
        raise TimeoutError(f"no connection to {via} in time") from None
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: an invalid name, with an empty or too long label
        where, remedy = (via, _PROXY) if origin.proxy else (origin.host, _CORRECT)
        why = error.strerror if isinstance(error, socket.gaierror) else "not a name"
        raise HttpError(f"{where} does not resolve ({why})", f"{remedy}, or see the DNS") from error
    except ssl.SSLCertVerificationError as error:
        raise HttpError(
            f"the certificate of {name} is not trusted ({error.verify_message})", _remedy(error.verify_code)
        ) from error
    except ConnectionRefusedError as error:
        remedy = _PROXY if origin.proxy else _CORRECT
        raise HttpError(f"{via} refuses connections", f"see what listens there, or {remedy}") from error
    except (OSError, RuntimeError) as error:  # aiohappyeyeballs and uvloop raise both
        raise HttpError(f"no connection to {via}: {error}") from error


def _remedy(verify_code: int) -> str:
    if verify_code in _OF_TIME:
        return "renew it, or correct the clock here"
    if verify_code in _OF_THE_NAME:
        return "correct AWS_ENDPOINT_URL_DYNAMODB, or give it a certificate of that name"
    return "give its authority in AWS_CA_BUNDLE, or correct AWS_ENDPOINT_URL_DYNAMODB"


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
    """Open a tunnel with CONNECT: https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6"""
    loop = asyncio.get_running_loop()
    name = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    asked = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{proxy.authorization}\r\n"
    await loop.sock_sendall(through, asked.encode())
    head, end = b"", None
    while not end:
        part = await loop.sock_recv(through, 4096)
        head += part
        end = _head_ends(head)
        if not part or len(head) > MAX_HEAD:
            break
    said = head.partition(b"\n")[0].rstrip(b"\r").decode("ascii", "replace")[:100]
    version, _, status = said.partition(" ")
    if not (version.startswith("HTTP/1.") and status[:1] == "2" and end and end.end() == len(head)):
        raise HttpError(
            f"proxy {proxy.host}:{proxy.port} refuses a tunnel to {name} ({said or 'it hung up'})", PROXY_REMEDY
        )
