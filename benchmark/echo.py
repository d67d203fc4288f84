"""The ceiling: the service without a look-up. Same connection, same dispatch, same acknowledged events."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

import uvloop
from nats.micro.service import ServiceConfig

from service import __version__, contract
from service.balance import encode
from service.connection import Connection
from service.errors import ServiceFault
from service.events import Events
from service.micro import ConcurrentEndpoint, ConcurrentService, Request
from service.settings import Settings, load
from service.telemetry import configure_logs

REPLY: Final = encode(7120)


async def run(settings: Settings) -> None:
    configure_logs(settings)
    stopped = asyncio.Event()

    def lost(fault: ServiceFault) -> None:
        raise fault

    connection = Connection(settings, on_lost=lost)
    await connection.open()
    events = Events(connection.client)
    await events.start()

    async def echo(request: Request) -> None:
        if await request.respond(REPLY):
            await events.publish("678", REPLY)

    endpoint = ConcurrentEndpoint(
        connection.client, echo, name=contract.ENDPOINT_NAME, subject=contract.SUBJECT,
        queue_group=contract.QUEUE_GROUP, max_in_flight=settings.max_in_flight, metadata={},
    )  # fmt: skip
    await ConcurrentService(connection.client, ServiceConfig(name=contract.SERVICE_NAME, version=__version__)).serve(
        endpoint
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await events.close()
    await connection.close()


if __name__ == "__main__":
    uvloop.run(run(load()))
