"""The service in its plainest form: a `nats.micro` handler, boto3's `get_item` in a thread, a published event."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

import boto3
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig
from prometheus_client.core import Metric

from service import __version__
from service.contracts import customer as contract
from service.contracts.requests import QUEUE_GROUP
from service.contracts.stream import EVENT_PREFIX
from service.customer.settings import CustomerSettings
from service.nats.connection import Connection
from service.runtime.logs import configure_logs
from service.runtime.process import Stop, run
from service.runtime.role import Need
from service.runtime.settings import load


class Baseline:
    """Answers one request at a time, which is how `nats.micro` dispatches them."""

    SETTINGS: ClassVar = CustomerSettings

    def __init__(self, settings: CustomerSettings, stop: Stop) -> None:
        self._connection = Connection(settings, name="baseline", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail)
        self._table = boto3.resource("dynamodb", region_name=os.environ["AWS_REGION"]).Table(settings.ddb_table)

    def needs(self) -> Sequence[Need]:
        return (Need("NATS", self._connection.open),)

    async def start(self) -> None:
        service = await add_service(self._connection.nc, ServiceConfig(name=contract.SERVICE_NAME, version=__version__))
        await service.add_endpoint(
            EndpointConfig(
                name=contract.ENDPOINT_NAME,
                subject=contract.SUBJECT,
                queue_group=QUEUE_GROUP,
                handler=self._balance,
            )
        )

    async def drain(self, timeout_s: float) -> None:
        """Do nothing: the benchmark does not count what is lost here."""

    async def close(self) -> None:
        await self._connection.close()

    async def problems(self) -> Mapping[str, str]:
        return {}

    async def remarks(self) -> Mapping[str, str]:
        return {}

    def metrics(self) -> Sequence[Metric]:
        return ()

    def figures(self) -> None:
        """Return None: the baseline reports nothing to CloudWatch."""

    async def _balance(self, request: Request) -> None:
        client_id = json.loads(request.data)["client_id"]
        found = await asyncio.to_thread(self._table.get_item, Key={contract.KEY_ATTRIBUTE: client_id})
        reply = json.dumps({"balance": int(str(found["Item"][contract.BALANCE_ATTRIBUTE]))}).encode()
        await request.respond(reply)
        await self._connection.nc.publish(EVENT_PREFIX + client_id, reply)


if __name__ == "__main__":
    loaded = load(Baseline.SETTINGS)
    configure_logs(loaded)
    asyncio.run(run(Baseline, loaded))
