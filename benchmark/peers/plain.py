"""Plain nats-py, without our client, for the programs that the service is compared with."""

from __future__ import annotations

import base64
import os

import nats
from nats.aio.client import Client, RawCredentials


async def plain_client(url: str, creds: str, inbox_prefix: str) -> Client:
    return await nats.connect(url, user_credentials=RawCredentials(creds), inbox_prefix=inbox_prefix)


async def from_environment(inbox_prefix: str) -> Client:
    """Connect like a process of the service."""
    creds = base64.b64decode(os.environ["NATS_CREDENTIALS"]).decode()
    return await plain_client(os.environ["NATS_URL"], creds, inbox_prefix)
