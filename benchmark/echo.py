"""The ceiling: the service without a look-up, on the same dispatch, each of its events acknowledged by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import uvloop
from nats.micro.service import ServiceConfig
from prometheus_client.core import Metric

from service import __version__
from service.customer import contract
from service.customer.balance import encode
from service.customer.events import Events
from service.customer.micro import ConcurrentService, Endpoint
from service.customer.request import Request
from service.customer.settings import CustomerSettings
from service.runtime.connection import Connection
from service.runtime.logs import configure_logs
from service.runtime.process import Stop, run
from service.runtime.role import Need
from service.runtime.settings import load
from service.runtime.tracing import NoTracing

REPLY: Final = encode(7120)


class Echo:
    """Answers every request with the same balance."""

    SETTINGS: ClassVar = CustomerSettings

    def __init__(self, settings: CustomerSettings, stop: Stop) -> None:
        self._connection = Connection(settings, name="echo", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail)
        self._events = Events(self._connection.nc)
        self._service = ConcurrentService(
            self._connection.nc,
            ServiceConfig(name=contract.SERVICE_NAME, version=__version__),
            (Endpoint(contract.ENDPOINT_NAME, contract.SUBJECT, self._echo, "An echo.", {}, {}),),
            max_in_flight=settings.max_in_flight,
            tracing=NoTracing(),
        )

    def needs(self) -> Sequence[Need]:
        return (Need("NATS", self._connection.open),)

    async def start(self) -> None:
        await self._events.start()
        await self._service.serve()

    async def drain(self, timeout_s: float) -> None:
        """Nothing is lost that the benchmark counts."""

    async def close(self) -> None:
        await self._events.close()
        await self._connection.close()

    async def problems(self) -> Mapping[str, str]:
        return {}

    async def remarks(self) -> Mapping[str, str]:
        return {}

    def metrics(self) -> Sequence[Metric]:
        return ()

    async def _echo(self, request: Request) -> None:
        if await request.respond(REPLY):
            self._events.publish("678", REPLY)


if __name__ == "__main__":
    loaded = load(Echo.SETTINGS)
    configure_logs(loaded)
    uvloop.run(run(Echo, loaded))
