"""A connection that is lost at any step of a start is made again, and the role serves."""

from __future__ import annotations

import pytest

from tests.support.archive import make_archive
from tests.support.network import network
from tests.support.queue.sidecar import OriginalClient, sidecar, store
from tests.support.world import World, eventually, log_lines

STEPS = [
    b"CONNECT ", b"PUB $SYS.REQ.USER.INFO ", b"STREAM.INFO.customer-balances ", b"STREAM.INFO.KV_config ",
    b"$JS.API.DIRECT.GET.KV_config.", b"SUB _INBOX_service.", b"SUB $SRV.PING ", b"SUB $SRV.STATS.customer ",
    b"SUB customer.balance q ",
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.decode().strip())
async def test_a_task_serves_although_the_connection_is_lost_while_it_starts(world: World, step: bytes) -> None:
    async with network(world.nats_url) as (between, url):
        between.lose = step
        async with world.task(NATS_URL=url) as task, world.client() as client:
            assert not between.lose, "the step was met"
            reply = await client.request("customer.balance", b'{"client_id":"1"}', timeout=5)
            assert reply.data.startswith(b'{"balance":')
            lines = log_lines(task.child.log.read_text())
    assert not [line for line in lines if line["level"] in {"error", "critical"}]


READS = [b"PUB $SYS.REQ.USER.INFO ", b"STREAM.INFO.customer-balances ", b"CONSUMER.INFO.customer-balances."]


@pytest.mark.parametrize("step", [*READS, b"SUB $SRV.PING ", b"CONSUMER.MSG.NEXT."], ids=lambda step: step.decode())
async def test_the_archive_archives_although_the_connection_is_lost_while_it_starts(world: World, step: bytes) -> None:
    async with make_archive(world) as archive, network(world.nats_url) as (between, url):
        await archive.publish(20)
        between.lose = step
        async with archive.task(NATS_URL=url):
            await eventually(archive.is_archived, within_s=20, what="20 events in the table")
            assert not between.lose, "the step was met"
        assert archive.sequences() == list(range(1, 21))


@pytest.mark.parametrize("step", [*READS, b"CONSUMER.MSG.NEXT."], ids=lambda step: step.decode())
async def test_a_sidecar_serves_although_the_connection_is_lost_while_it_starts(world: World, step: bytes) -> None:
    async with network(world.nats_url) as (between, url):
        await store(world, b"one")
        between.lose = step
        async with sidecar(world, NATS_URL=url) as (_, channel):
            received = await OriginalClient(channel).receive(wait_s=10)
            assert not between.lose, "the step was met"
            assert [message.messageBody for message in received] == ["one"]
