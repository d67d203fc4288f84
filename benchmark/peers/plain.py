"""nats-py as it is, which the programs that the service is compared with use: no client of ours."""

from __future__ import annotations

import base64
import os

import nats
from nats.aio.client import Client, RawCredentials


async def plain_client(url: str, creds: str, inbox_prefix: str) -> Client:
    return await nats.connect(url, user_credentials=RawCredentials(creds), inbox_prefix=inbox_prefix)


async def from_environment(inbox_prefix: str) -> Client:
    """Connect as a process of the service would."""
    creds = base64.b64decode(os.environ["NATS_CREDENTIALS"]).decode()
    return await plain_client(os.environ["NATS_URL"], creds, inbox_prefix)
