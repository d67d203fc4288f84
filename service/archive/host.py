"""Where an event was handled."""

from __future__ import annotations

import os
import socket
from typing import Final

import aiohttp

METADATA: Final = "ECS_CONTAINER_METADATA_URI_V4"
"""https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html"""
TIMEOUT_S: Final = 2.0


async def host() -> str:
    """The ECS task's id; elsewhere, or where ECS does not tell, the host's name and the process' id."""
    url = os.environ.get(METADATA)
    if url:
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"{url}/task") as response:
                return str((await response.json())["TaskARN"]).rpartition("/")[2]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            pass
    return f"{socket.gethostname()}:{os.getpid()}"
