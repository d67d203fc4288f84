"""A nats-server of one's own, in operator mode: accounts are pushed to its resolver as JWTs.

`$SYS.REQ.CLAIMS.UPDATE`: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt/resolver
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
from nats.aio.client import Client, RawCredentials

from control_plane import claims
from control_plane.claims import Key
from control_plane.wanted import ADMINISTRATOR

CONNECT_TIMEOUT_S = 5


class ProvisioningError(Exception):
    """What could not be provisioned, and why: one line."""


@asynccontextmanager
async def connected(servers: str | Sequence[str], creds: str, **options: Any) -> AsyncIterator[Client]:
    """A connection that does not retry; raises `ProvisioningError` when there is none to be had."""
    problems: list[Exception] = []

    async def note(error: Exception) -> None:
        problems.append(error)

    client = Client()
    try:
        await client.connect(
            servers if isinstance(servers, str) else list(servers),
            user_credentials=RawCredentials(creds),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=CONNECT_TIMEOUT_S,
            error_cb=note,
            **options,
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        reason = str(problems[0] if problems else error).removeprefix("nats: ") or type(error).__name__
        await client.close()  # nats-py leaves the socket of a refused connection open
        raise ProvisioningError(f"no connection to {servers}: {reason}") from None
    try:
        yield client
    finally:
        await client.close()


async def push_account(system: Client, token: str) -> None:
    """Give the server an account's JWT; it replaces an older one at once.

    Raises `ProvisioningError` with the server's reason when it does not take it.
    """
    await _claims(system, "UPDATE", token)


async def delete_account(system: Client, account: str, operator: Key) -> None:
    """Have the server forget an account; its resolver must allow that.

    Raises `ProvisioningError` with the server's reason when it does not.
    """
    await _claims(system, "DELETE", claims.deletion_jwt([account], operator))


async def _claims(system: Client, verb: str, token: str) -> None:
    try:
        reply = await system.request(f"$SYS.REQ.CLAIMS.{verb}", token.encode(), timeout=CONNECT_TIMEOUT_S)
    except nats.errors.Error as error:
        raise ProvisioningError(f"the server takes no accounts: {error}") from None
    answer = json.loads(reply.data)
    if "error" in answer:
        raise ProvisioningError(f"the server refused the account: {answer['error'].get('description', answer)}")


def administrator_creds(signer: Key, account: str, *, expires_s: int = 300) -> str:
    """Credentials with every permission in one account, for as long as provisioning takes."""
    return claims.mint_creds(ADMINISTRATOR, signer, account=account, expires_s=expires_s)
