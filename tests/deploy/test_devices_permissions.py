"""What the role `devices` calls in AWS is what its policy allows, no more and no less."""

from __future__ import annotations

import signal
import time
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from local.process import claim_port
from service.contracts import devices as contract
from tests.cdk.test_devices import FULL, statements
from tests.deploy.test_aws_permissions import actions, documented, needed
from tests.support.dynamodb.faulty import FaultyDynamoDB
from tests.support.world import eventually

pytestmark = pytest.mark.xdist_group("templates")

load = pytest.importorskip("tests.support.devices.load", reason="the role itself")
pb = pytest.importorskip("service.devices.query.query_pb2", reason="the role itself")
stubs = pytest.importorskip("service.devices.query.query_pb2_grpc", reason="the role itself")


async def test_the_role_may_do_what_it_calls(devices: Any, proxy: FaultyDynamoDB) -> None:
    """A reading is written, and read over gRPC and NATS."""
    devices.env = proxy.env
    listen = f"127.0.0.1:{claim_port(0, '')}"
    async with devices.task(DEVICES_LISTEN=listen) as task:
        device = await devices.connect("d1")
        await device.publish("data/d1/room", load.reading("d1", int(time.time())))
        await eventually(devices.is_written, within_s=30, what="a row")
        async with grpc.aio.insecure_channel(listen) as channel:
            query = stubs.QueryStub(channel)
            everything = [row async for row in query.GetSensorRows(Empty(), timeout=30)]
            of_device = [row async for row in query.GetDeviceRows(pb.Range(device="d1"), timeout=30)]
        assert len(everything) == len(of_device) == 1
        async with devices.world.client() as client:

            async def is_known() -> bool:
                """Return whether the reading has become a record: that is behind its row."""
                answer = await client.request(contract.GET_SUBJECT, b'{"device":"d1"}', timeout=10)
                return b'"last"' in answer.data

            await eventually(is_known, what="a device that is known")
        await device.disconnect()
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0
    assert needed(proxy, "dynamodb") == actions(statements(**FULL)) == actions(documented("devices"))
