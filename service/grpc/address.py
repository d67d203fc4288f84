"""A gRPC server's listening address and files."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import Final

UNIX_PATH_BYTES: Final = 107
"""Linux's limit: https://man7.org/linux/man-pages/man7/unix.7.html"""


@dataclass(frozen=True)
class Address:
    variables: str
    """Prefix of its environment variables, for error messages."""
    listen: str
    socket_mode: str
    """Mode of a Unix socket, in octal."""
    certificate: str
    """This, the key and the client CA: a file's path, or PEM text."""
    key: str = field(repr=False)
    client_ca: str
    mutual: bool = False
    """Whether other machines need a certificate of `client_ca` to reach it."""

    @property
    def is_local(self) -> bool:
        """True if only programs on this machine can reach it."""
        if self.listen.startswith("unix:"):
            return True
        host = self.listen.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def check_listen(value: str) -> str:
    """Return a valid address unchanged. Raise `ValueError` that says what an address must be."""
    if value.startswith("unix:"):
        path = socket_path(value)
        if not path or path.endswith("/"):
            raise ValueError("must name a file behind unix:")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES:
            raise ValueError(f"must have a path of at most {UNIX_PATH_BYTES} bytes behind unix:")
        return value
    host, _, port = value.rpartition(":")
    if not host or set(host) & set("/ \t\n") or (":" in host and not re.fullmatch(r"\[[^\[\]]+\]", host)):
        raise ValueError("must be HOST:PORT, [IPv6]:PORT or unix:PATH")
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ValueError("must have a port of 0 to 65535")
    return value


def socket_path(listen: str) -> str:
    """Return the path in `unix:PATH` or `unix://PATH`."""
    return listen.removeprefix("unix:").removeprefix("//")
