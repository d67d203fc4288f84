"""Why a balance changed reaches the archive and the sidecar; consumers that were there see what they saw."""

from __future__ import annotations

import orjson
from nats.js.api import ConsumerConfig

from service.contracts import customer as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from tests.support.archive import make_archive
from tests.support.drills.drill import stored
from tests.support.ledger.adjusting import adjust, ask
from tests.support.queue.sidecar import OriginalClient, sidecar
from tests.support.world import World

REPLY = '{"client_id":"678","adjustment_id":"a","points":-250,"balance":6870}'


async def test_an_adjustment_is_archived_and_handed_out_with_its_reason(world: World) -> None:
    world.put_rows({"678": 7120})
    env = await world.with_adjustments()
    async with world.task(**env), world.client("teller") as teller, world.administrator() as admin:
        await admin.add_consumer(STREAM, ConsumerConfig(durable_name="theirs", filter_subject=f"{EVENT_PREFIX}*"))
        theirs = await admin.pull_subscribe_bind("theirs", STREAM)
        plain = await admin._nc.subscribe(f"{EVENT_PREFIX}*")
        assert (await ask(teller, contract.SUBJECT, {"client_id": "678"}))[1] == b'{"balance":7120}'
        assert (await adjust(teller, "678", -250, "a"))[1] == REPLY.encode()
        await stored(world, 3)
        seen = [b'{"balance":7120}', b'{"balance":6870}']
        assert [message.data for message in await theirs.fetch(10, timeout=1)] == seen
        assert [(await plain.next_msg(timeout=5)).data for _ in range(2)] == seen
        assert plain.pending_msgs == 0
    async with make_archive(world) as archive:
        code, log = await archive.run_to_end(IDLE_EXIT="0.5")
        assert code == 0, log
        rows = sorted(archive.rows(), key=lambda row: int(row["sequence"]["N"]))
        assert [(row["client_id"]["S"], row["body"]["S"], row["balance"]["N"]) for row in rows] == [
            ("678", '{"balance":7120}', "7120"), ("678", '{"balance":6870}', "6870"), ("678", REPLY, "6870"),
        ]  # fmt: skip
        assert len({row["Nats-Msg-Id"]["S"] for row in rows}) == 3
    async with sidecar(world) as (_, channel):
        client = OriginalClient(channel)
        bodies = [message.messageBody for message in await client.receive()]
        assert sorted(bodies) == sorted(['{"balance":7120}', '{"balance":6870}', REPLY])
        assert orjson.loads(REPLY)["points"] == -250
