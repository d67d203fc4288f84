"""Make NATS JWTs (version 2, signed with nkeys) and the `.creds` files that carry them.

Claims: https://github.com/nats-io/jwt/tree/main/v2 (`operator_claims.go`, `account_claims.go`, `user_claims.go`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
import nkeys
from jwt.algorithms import Algorithm

from control_plane.resources import Limits, User
from control_plane.settings import limits_settings, user_settings
from service.nats import creds

ALGORITHM: Final = "ed25519-nkey"


@dataclass(frozen=True)
class Key:
    """An nkey pair. Its seed does not appear in its repr."""

    public: str
    seed: str = field(repr=False)

    @classmethod
    def operator(cls) -> Key:
        return cls._new(nkeys.PREFIX_BYTE_OPERATOR)

    @classmethod
    def account(cls) -> Key:
        return cls._new(nkeys.PREFIX_BYTE_ACCOUNT)

    @classmethod
    def user(cls) -> Key:
        return cls._new(nkeys.PREFIX_BYTE_USER)

    @classmethod
    def from_seed(cls, seed: str) -> Key:
        """Return the pair of a seed. Raises `ValueError` for an invalid seed."""
        try:
            return cls(nkeys.from_seed(bytearray(seed.strip().encode())).public_key.decode(), seed.strip())
        except (nkeys.NkeysError, ValueError) as error:
            raise ValueError(f"not an nkey seed ({type(error).__name__})") from None

    @classmethod
    def _new(cls, prefix: int) -> Key:
        return cls.from_seed(nkeys.encode_seed(os.urandom(32), prefix).decode())

    def derive(self, purpose: str, *, user: bool = False) -> Key:
        """Derive a key for a purpose: always the same key, which does not reveal this one.

        It is an account's signing key, or a user's key if `user` is true.
        """
        raw = hmac.digest(self.seed.encode(), purpose.encode(), "sha256")
        prefix = nkeys.PREFIX_BYTE_USER if user else nkeys.PREFIX_BYTE_ACCOUNT
        return self.from_seed(nkeys.encode_seed(raw, prefix).decode())

    def sign(self, message: bytes) -> bytes:
        signature: bytes = nkeys.from_seed(bytearray(self.seed.encode())).sign(message)
        return signature


class _Ed25519Nkey(Algorithm):
    """Sign for pyjwt. The server verifies."""

    def prepare_key(self, key: Key) -> Key:
        return key

    def sign(self, msg: bytes, key: Key) -> bytes:
        return key.sign(msg)

    def verify(self, msg: bytes, key: Key, sig: bytes) -> bool:
        return key.sign(msg) == sig

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError("nkeys have no JWK form")

    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError("nkeys have no JWK form")


_jws: Final = jwt.PyJWS()
_jws.register_algorithm(ALGORITHM, _Ed25519Nkey())


def operator_jwt(name: str, operator: Key, system_account: str) -> str:
    return sign(name, operator.public, operator, {"type": "operator", "system_account": system_account})


def account_jwt(
    name: str,
    account: str,
    operator: Key,
    *,
    limits: Limits | None = None,
    signing_keys: Sequence[str | Mapping[str, Any]] = (),
    revoked: Mapping[str, int] | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Return an account's JWT. `limits` None: no JetStream, as for a system account.

    `revoked` maps users' public keys to a time, in seconds since 1970: JWTs issued up to then are revoked.
    """
    unlimited = Limits(connections=-1, subscriptions=-1, disk_bytes=0, memory_bytes=0, streams=0, consumers=0)
    given = limits or unlimited
    body: dict[str, Any] = {
        "type": "account",
        "limits": {
            "data": -1,
            "payload": -1,
            "leaf": -1,
            "imports": -1,
            "exports": -1,
            "wildcards": True,
            **limits_settings(given),
        },
        "signing_keys": list(signing_keys),
        "default_permissions": {"pub": {}, "sub": {}},
    }
    if revoked:
        body["revocations"] = dict(revoked)
    if tags:
        body["tags"] = list(tags)
    return sign(name, account, operator, body)


def deletion_jwt(accounts: Sequence[str], operator: Key) -> str:
    """Return an operator's request to delete accounts, for `$SYS.REQ.CLAIMS.DELETE`."""
    return sign("delete", operator.public, operator, {"type": "generic", "accounts": list(accounts)})


def user_jwt(user: User, public: str, signer: Key, *, account: str, expires_s: int | None = None) -> str:
    """Return a user's JWT with its permissions; it expires `expires_s` seconds from now."""
    body: dict[str, Any] = {"type": "user", **user_settings(user)}
    if signer.public != account:
        body["issuer_account"] = account
    return sign(user.name, public, signer, body, expires_s=expires_s)


def scope(key: str, user: User, generation: int) -> dict[str, Any]:
    """Return a scoped signing key for `user` only: the permissions are in the account's JWT, not in the user's.

    `generation` numbers the user's signing keys.
    """
    return {
        "kind": "user_scope",
        "key": key,
        "role": user.name,
        "template": user_settings(user),
        "description": str(generation),
    }


def scoped_user_jwt(name: str, public: str, signer: Key, *, account: str) -> str:
    """Return the JWT of a user whose permissions are those of its signing key."""
    return sign(name, public, signer, {"type": "user", "issuer_account": account})


def decode(token: str) -> dict[str, Any]:
    """Return a JWT's claims without verifying its signature.

    Raises `ValueError`, without quoting the text, if it is not a JWT.
    """
    try:
        return creds.decode(token)
    except ValueError:
        raise ValueError("not a JWT") from None


def is_signed_by(token: str, signer: Key) -> bool:
    """Return whether the text is a JWT that this key signed. This requires the seed, not only the public key."""
    try:
        _jws.decode(token, signer, algorithms=[ALGORITHM])  # type: ignore[arg-type]  # an nkey, not a key type of pyjwt
    except jwt.InvalidTokenError:
        return False
    return True


def creds_file(token: str, key: Key) -> str:
    """Return the text of a `.creds` file."""
    return creds.write(token, key.seed)


def mint_creds(user: User, signer: Key, *, account: str, expires_s: int | None = None) -> str:
    """Make a new key for `user`; return its `.creds` file."""
    key = Key.user()
    return creds_file(user_jwt(user, key.public, signer, account=account, expires_s=expires_s), key)


def sign(name: str, subject: str, signer: Key, body: dict[str, Any], expires_s: int | None = None) -> str:
    """Sign claims as a JWT that expires `expires_s` seconds from now."""
    end = {} if expires_s is None else {"exp": int(time.time()) + expires_s}
    return sign_again({"name": name, "sub": subject, "nats": {**body, "version": 2}, **end}, signer)


def sign_again(claims: Mapping[str, Any], signer: Key) -> str:
    """Sign changed claims, issued now. Claims that signing does not set are kept (`exp`, `nbf`, `aud`, ...).

    https://www.rfc-editor.org/rfc/rfc7519#section-4.1
    """
    signed = {**claims, "iat": int(time.time()), "iss": signer.public, "nats": {**claims["nats"], "version": 2}}
    signed.pop("jti", None)
    digest = hashlib.new("sha512_256", _json(signed)).digest()
    signed["jti"] = base64.b32encode(digest).decode().rstrip("=")
    return _jws.encode(_json(signed), signer, algorithm=ALGORITHM)  # type: ignore[arg-type]  # an nkey, not its own kinds


def _json(claims: dict[str, Any]) -> bytes:
    return json.dumps(claims, separators=(",", ":")).encode()
