"""Parse `.creds` text as nats.go does, for the service and the control plane.

It accepts each file that nats.go accepts: with CRLF, a byte-order mark, text around it, or no final newline.
https://github.com/nats-io/nkeys/blob/main/creds_utils.go
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import nkeys

_PART: Final = re.compile(r"-{3,}[^\n]*-{3,}\s*\n\s*([\w.=-]+)\s*\n\s*-{3,}[^\n]*-{3,}", re.ASCII)
_BARE_JWT: Final = re.compile(r"^\s*(eyJ[\w-]+\.[\w-]+\.[\w-]+)\s*$", re.ASCII | re.MULTILINE)
_BARE_SEED: Final = re.compile(r"^\s*(S[UAO][A-Z2-7]*)\s*$", re.ASCII | re.MULTILINE)
_YEAR_9999_S: Final = 253_370_764_800
_SEED_BYTES: Final = 36
"""Two bytes of prefix, 32 of key, two of checksum: https://github.com/nats-io/nkeys/blob/main/strkey.go"""


@dataclass(frozen=True)
class Credentials:
    """A user's JWT and its matching seed. Neither appears in a repr."""

    token: str = field(repr=False)
    seed: str = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def end(self) -> str:
        """Time of expiry in UTC; empty if the JWT names none."""
        exp = self.claims.get("exp")
        if not isinstance(exp, int) or not 0 < exp < _YEAR_9999_S:
            return ""
        return datetime.fromtimestamp(exp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def text(self) -> str:
        """The text of a file that every NATS client can read."""
        return write(self.token, self.seed)


def parse(text: str | bytes) -> Credentials:
    """Parse the text. Raise `ValueError` with the reason, which never quotes the text."""
    given = text.decode("utf-8-sig", errors="replace") if isinstance(text, bytes) else text
    given = "\n".join(given.splitlines())
    parts = [part[1] for part in _PART.finditer(given)]
    token = parts[0] if parts else _found(_BARE_JWT, given)
    seed = parts[1] if len(parts) > 1 else _found(_BARE_SEED, given)
    if not token and not seed:
        raise ValueError("has no JWT and no seed: it is not a .creds file")
    if not token or parts[:1] == [seed]:
        raise ValueError("has a seed and no JWT")
    if not seed:
        raise ValueError("has a JWT and no seed")
    claims, public = decode(token), _public(seed)
    if claims.get("sub") != public and not _is_bearer(claims):
        raise ValueError("has the JWT of one user and the seed of another")
    return Credentials(token, seed, claims)


def write(token: str, seed: str) -> str:
    """Return the text of a `.creds` file: https://docs.nats.io/using-nats/developer/connecting/creds"""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n"
        "NKEYs are sensitive and should be treated as secrets.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n"
        "*************************************************************\n"
    )


def decode(token: str) -> dict[str, Any]:
    """Return a JWT's claims without verifying its signature. Raise `ValueError` if it is not a JWT."""
    try:
        _, body, _ = token.split(".")
        said: dict[str, Any] | None = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        return said
    raise ValueError("has a damaged or truncated JWT")


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _public(seed: str) -> str:
    """Return the public key of a user's seed. Raise `ValueError` if it is damaged or not a user's."""
    if not _is_whole(seed):
        raise ValueError("has a truncated or damaged seed")
    if not seed.startswith("SU"):
        raise ValueError("has the seed of an account or operator, not of a user")
    public: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    return public.decode()


def _is_whole(seed: str) -> bool:
    """Check length and checksum, which nkeys does not."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except ValueError:
        return False
    checksum = binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little")
    return len(raw) == _SEED_BYTES and raw[-2:] == checksum and seed.startswith("S")


def _is_bearer(claims: Mapping[str, Any]) -> bool:
    nats = claims.get("nats")
    return isinstance(nats, Mapping) and nats.get("bearer_token") is True
