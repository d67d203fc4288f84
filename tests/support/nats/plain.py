"""A nats-server without accounts, configured as a test asks, and JetStream's API as it is on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import orjson
from nats.aio.client import Client

from local.process import accepts, claim_port, running
from local.servers.nats_server import binary


@asynccontextmanager
async def plain_server(folder: Path, config: str = "", *, jetstream: bool = False) -> AsyncIterator[int]:
    """Start the server; yield its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port, file = claim_port(0, ""), folder / "plain.conf"
    store = f'jetstream {{ store_dir: "{folder}/jetstream" }}\n' if jetstream else ""
    file.write_text(f'listen: "127.0.0.1:{port}"\n{store}{config}\n')
    async with running("nats-server", [binary(), "-c", str(file)], folder / "plain.log") as child:
        await child.until(lambda: accepts(port))
        yield port


@asynccontextmanager
async def client_of(port: int, **options: Any) -> AsyncIterator[Client]:
    client = await nats.connect(f"nats://127.0.0.1:{port}", **options)
    try:
        yield client
    finally:
        await client.close()


async def api(client: Client, what: str, **body: Any) -> dict[str, Any]:
    """Return JetStream's answer, which must not be an error."""
    answer: dict[str, Any] = orjson.loads((await client.request(f"$JS.API.{what}", orjson.dumps(body), timeout=5)).data)
    assert "error" not in answer, answer["error"]
    return answer
