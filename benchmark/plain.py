"""The service as most would write it: a `nats.micro` handler, boto3's `get_item` in a thread, a published event."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import boto3
import nats
from nats.aio.client import RawCredentials
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig

from service import __version__, contract
from service.settings import Settings, load


async def run(settings: Settings) -> None:
    table = boto3.resource("dynamodb", region_name=os.environ["AWS_REGION"]).Table(settings.ddb_table)
    creds = settings.nats_credentials
    client = await nats.connect(
        settings.nats_servers,
        user_credentials=RawCredentials(creds.get_secret_value()) if creds else None,
        inbox_prefix=contract.INBOX_PREFIX,
    )

    async def balance(request: Request) -> None:
        client_id = json.loads(request.data)["client_id"]
        found = await asyncio.to_thread(table.get_item, Key={contract.KEY_ATTRIBUTE: client_id})
        reply = json.dumps({"balance": int(str(found["Item"][contract.BALANCE_ATTRIBUTE]))}).encode()
        await request.respond(reply)
        await client.publish(contract.EVENT_PREFIX + client_id, reply)

    service = await add_service(client, ServiceConfig(name=contract.SERVICE_NAME, version=__version__))
    await service.add_endpoint(
        EndpointConfig(
            name=contract.ENDPOINT_NAME, subject=contract.SUBJECT, queue_group=contract.QUEUE_GROUP, handler=balance
        )
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await service.stop()
    await client.close()


if __name__ == "__main__":
    asyncio.run(run(load()))
