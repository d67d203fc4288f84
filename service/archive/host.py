"""Name the host that archives an event."""

from __future__ import annotations

import os
import socket
from typing import Final

import aiohttp

METADATA: Final = "ECS_CONTAINER_METADATA_URI_V4"
"""https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html"""
TIMEOUT_S: Final = 2.0


async def host() -> str:
    """Return the ECS task's id; outside ECS, or if its metadata cannot be read, `HOSTNAME:PID`."""
    url = os.environ.get(METADATA)
    if url:
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"{url}/task") as response:
                return str((await response.json())["TaskARN"]).rpartition("/")[2]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            pass
    return f"{socket.gethostname()}:{os.getpid()}"
