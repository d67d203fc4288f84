"""The connection of the control plane: it waits for a JetStream that is missing for a moment."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from service.nats.client import NatsClient

API: Final = "$JS.API."
MISSING_S: Final = 2.0
AGAIN_S: Final = 0.02


class PatientClient(NatsClient):
    """A client that sends a request to JetStream again for `MISSING_S` seconds when nobody takes it.

    nats-server takes its API away from an account, and gives it back, each time that it is sent a new JWT: by another
    command, or by this one. (`updateAccountClaimsWithRefresh`, which empties the account's imports:
    https://github.com/nats-io/nats-server/blob/main/server/accounts.go)
    """

    async def request(self, subject: str, *arguments: Any, **named: Any) -> Msg:
        """As nats-py's. Such a request has done nothing, so it may be sent again."""
        until_s = asyncio.get_running_loop().time() + MISSING_S
        while True:
            try:
                return await super().request(subject, *arguments, **named)
            except NoRespondersError:
                if not subject.startswith(API) or asyncio.get_running_loop().time() >= until_s:
                    raise
            await asyncio.sleep(AGAIN_S)
