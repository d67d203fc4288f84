"""Change an account's JWT so that two concurrent commands do not lose each other's changes.

The server keeps the last JWT that it was sent, whatever that was made from: it has no compare-and-set. But a user that
may send it a JWT may also receive those of others, on the same subject. So a command listens from before it reads the
JWT until a moment after it has sent its own, and repeats its change on the newest JWT if another one came in between.

`$SYS.REQ.CLAIMS.UPDATE`: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt/resolver
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.errors import ProvisioningError
from service.nats.client import roundtrip

UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
SETTLE_S: Final = 0.1
"""Longer than another command takes to receive a JWT; after that, it sends none made from an older one."""
PAUSE_S: Final = 0.5
TRIES: Final = 20

Claims = dict[str, Any]
Edit = Callable[[dict[str, Any]], None]
"""Change an account's settings in place. It must be idempotent: a second call, on its own result, changes nothing."""


async def make(
    system: Client,
    account: str,
    operator: Key,
    edit: Edit,
    *,
    read: Callable[[], Awaitable[Claims]],
    push: Callable[[str], Awaitable[None]],
) -> None:
    """Change the account's JWT; return once it has this change and those of other commands.

    Raises `ProvisioningError` if others keep changing it, or if the system account's user may not receive their JWTs.
    """
    sent = await system.subscribe(UPDATE)
    try:
        newest, replaced = await read(), False  # `replaced`: what this command sent last was made from an older one
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(random.uniform(0, PAUSE_S))  # two commands that collided must not collide again
            if heard := await _heard(sent, account, operator):
                newest, replaced = claims.decode(heard[-1]), False
            wanted = deepcopy(newest)
            edit(wanted["nats"])
            if wanted == newest and not replaced:
                return
            mine = claims.sign_again(wanted, operator)
            await push(mine)
            await asyncio.sleep(SETTLE_S)
            await roundtrip(system)
            heard = await _heard(sent, account, operator)
            if mine not in heard:
                raise ProvisioningError(
                    f"the change is made, but may be lost: let --system-creds subscribe to {UPDATE}"
                )
            others = [token for token in heard if token != mine]
            if not others:
                return
            newest, replaced = claims.decode(others[-1]), heard[0] != mine
    finally:
        with suppress(nats.errors.Error):
            await sent.unsubscribe()
    raise ProvisioningError(f"other commands change account {account} all the time; run it again")


async def _heard(sent: Subscription, account: str, operator: Key) -> list[str]:
    """Return the account's JWTs received since the last call, in order.

    Only those that the operator's key signed: someone with only a system user's credentials must not choose what is
    signed next.
    """
    found = []
    while sent.pending_msgs:
        token = (await sent.next_msg()).data.decode(errors="replace")
        if claims.is_signed_by(token, operator) and claims.decode(token).get("sub") == account:
            found.append(token)
    return found
