"""The lean echo: only nats-py, without a look-up. It answers each request and publishes an acknowledged event."""

from __future__ import annotations

import asyncio
from typing import Final

import uvloop
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.service import ServiceConfig

from benchmark.peers.plain import from_environment
from service import __version__
from service.contracts import customer as contract
from service.contracts.requests import QUEUE_GROUP
from service.contracts.stream import EVENT_PREFIX

REPLY: Final = b'{"balance":7120}'


async def main() -> None:
    """Serve until a signal ends the process: the benchmark does not count what is lost then."""
    nc = await from_environment(contract.INBOX_PREFIX)
    inbox, published, stored = nc.new_inbox(), 0, 0

    async def on_request(msg: Msg) -> None:
        nonlocal published
        published += 1
        await nc.publish(msg.reply, REPLY)
        headers = {"Nats-Msg-Id": f"{inbox}.{published}"}
        await nc.publish(f"{EVENT_PREFIX}678", REPLY, reply=f"{inbox}.{published}", headers=headers)

    async def on_stored(_: Msg) -> None:
        nonlocal stored
        stored += 1

    await nc.subscribe(f"{inbox}.*", cb=on_stored)
    await nc.subscribe(contract.SUBJECT, queue=QUEUE_GROUP, cb=on_request)
    await add_service(nc, ServiceConfig(name=contract.SERVICE_NAME, version=__version__))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
