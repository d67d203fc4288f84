"""The servers a connection may use: the configured ones, and those that the last INFO named.

A server names its cluster's addresses without a scheme. So each is reached like the server that named it: same
transport, same TLS, same user, and verified against the configured host name.

nats-py 2.16 takes each address as `nats://` or `tls://` without a user, never forgets one, and ends the client when one
does not parse.
"""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import ParseResult, urlparse

from nats.aio.client import Srv

PORTS: Final = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
BACKOFF_MAX_S: Final = 2.0
BACKOFF_S: Final = 0.1

Place = tuple[str, int]
"""Host and port. The same place is one entry, whether configured or learned."""


class Servers:
    """The servers, and the order in which to try them."""

    def __init__(self, given: Sequence[Srv], on_odd: Callable[[str], None]) -> None:
        """`on_odd` is called once with each address that cannot be used."""
        self._given = {_place(server.uri): server for server in random.sample(given, len(given))}
        self._said: dict[Place, Srv] = {}
        self._last_good: Srv | None = None
        self._good_at, self._rounds = 0.0, 0
        self._on_odd = on_odd
        self._odd: set[str] = set()

    def all(self) -> list[Srv]:
        return [*self._given.values(), *self._said.values()]

    def take(self, info: Mapping[str, Any], by: Srv) -> None:
        """Replace the learned servers with those in this INFO from `by`; if it has no addresses, keep them.

        https://docs.nats.io/reference/reference-protocols/nats-protocol#info
        """
        addresses = info.get("connect_urls")
        if not isinstance(addresses, list) or not addresses:
            return
        found = [server for address in addresses if (server := self._server(address, by))]
        random.shuffle(found)
        self._said = {
            place: self._said.get(place, server) for server in found if (place := _place(server.uri)) not in self._given
        }

    def in_order(self) -> list[Srv]:
        """Return all, fewest failures first; among equals the last good one, then the configured ones."""
        servers = self.all()
        servers.sort(key=lambda server: (server.reconnects, server is not self._last_good))
        return servers

    def backoff_s(self) -> float:
        """Return the seconds to wait before the next round: full jitter, longer after each round without a server."""
        return random.uniform(0.0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(self._rounds, 5)))

    def begin_round(self) -> None:
        self._rounds += 1

    def good(self, server: Srv) -> None:
        """Note that a connection to the server is up."""
        self._last_good, self._good_at = server, time.monotonic()
        server.did_connect, server.reconnects = True, 0

    def lost(self) -> None:
        """Note that the connection is lost. Reset the backoff, unless the server accepted it and closed it at once."""
        if time.monotonic() - self._good_at > BACKOFF_MAX_S:
            self._rounds = 0

    def bad(self, server: Srv) -> None:
        """Note that the server did not accept a connection, or failed right after."""
        server.reconnects += 1

    def _server(self, address: Any, by: Srv) -> Srv | None:
        """Return the server at an address that `by` named, or None if it does not parse."""
        user, at, _ = by.uri.netloc.rpartition("@")
        try:
            uri = urlparse(f"{by.uri.scheme}://{user}{at}{address}")
            host, port = _place(uri)
            if uri.port is None:
                uri = uri._replace(netloc=f"{uri.netloc.rstrip(':')}:{port}")
        except ValueError:
            host = ""
        if not host or not isinstance(address, str):
            if str(address) not in self._odd:
                self._odd.add(str(address))
                self._on_odd(str(address))
            return None
        name = (by.tls_name or by.uri.hostname) if _is_ip(host) else None
        return Srv(uri, discovered=True, tls_name=name)


def _place(uri: ParseResult) -> Place:
    """Return host and port. Raise `ValueError` for an invalid port."""
    return uri.hostname or "", uri.port or PORTS.get(uri.scheme, 0)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
