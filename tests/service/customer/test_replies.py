"""Each request is answered, whatever became of the one before, at each endpoint; and the log says what failed."""

from __future__ import annotations

import json

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from service.customer import replies
from service.customer.balance import Balance
from service.customer.clients import Clients
from service.customer.create import Create
from service.customer.events import Events
from service.customer.get import Get
from service.customer.request import Request
from service.runtime.nats_client import NatsClient
from service.runtime.tracing import NoTracing
from tests.support.table import open_table
from tests.support.world import World, eventually


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("endpoint", ["balance", "get", "create"])
async def test_a_delivery_that_fails_is_its_own_alone(endpoint: str, world: World) -> None:
    world.put_rows({"1": 7})
    replies._failed._kinds.clear()
    outcomes = list[str]()

    def done(_: Request, outcome: str, __: str) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            raise ZeroDivisionError("as the test wants it")

    async with world.client("service") as client, open_table(world.table) as table:
        assert isinstance(client, NatsClient)
        clients, events = Clients(table, NoTracing()), Events(client)
        await events.start()
        handlers: dict[str, Balance | Get | Create] = {
            "balance": Balance(clients, events),
            "get": Get(clients),
            "create": Create(table),
        }
        with capture_logs() as logs:
            for number in range(3):
                body = {"client_id": "1"} if endpoint != "create" else {"client_id": f"new-{number}", "name": "n"}
                msg = Msg(client, f"customer.{endpoint}", f"_INBOX.{number}", json.dumps(body).encode())
                await handlers[endpoint].handle(Request(client, msg, NoTracing(), done))
            await eventually(lambda: len(outcomes) == 3)
            await eventually(lambda: bool(logs))
        await events.flush(5)
        await events.close()
    assert outcomes == ["OK"] * 3
    assert [(line["event"], line["log_level"]) for line in logs] == [("delivery failed", "error")]
