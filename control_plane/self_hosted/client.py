"""The control plane's connection: it waits while JetStream is briefly unavailable."""

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
    """A client that repeats a request to JetStream for up to `MISSING_S` seconds while there are no responders.

    nats-server removes the JetStream API from an account, and restores it, each time it receives a new JWT for it, from
    this command or another. (`updateAccountClaimsWithRefresh`, which empties the account's imports:
    https://github.com/nats-io/nats-server/blob/main/server/accounts.go)
    """

    async def request(self, subject: str, *arguments: Any, **named: Any) -> Msg:
        """Send a request like nats-py. A request without responders has done nothing, so it may be sent again."""
        until_s = asyncio.get_running_loop().time() + MISSING_S
        while True:
            try:
                return await super().request(subject, *arguments, **named)
            except NoRespondersError:
                if not subject.startswith(API) or asyncio.get_running_loop().time() >= until_s:
                    raise
            await asyncio.sleep(AGAIN_S)
