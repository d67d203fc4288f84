"""How the sidecar is reached: TLS and mutual TLS, a Unix socket, health and reflection."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
import trustme
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from local.process import claim_port
from local.system import service_task
from service.contracts import queue as contract
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.service.queue.conftest import Shared
from tests.support.certificates import Certificates
from tests.support.queue.sidecar import sidecar, sidecar_env, store
from tests.support.world import World, complaint, eventually, get

SERVING = health_pb2.HealthCheckResponse.SERVING
CALL_S = 5


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(trustme.CA(), tmp_path)


def given(certificates: Certificates) -> dict[str, str]:
    return dict(zip(("QUEUE_CERTIFICATE", "QUEUE_KEY", "QUEUE_CLIENT_CA"), certificates.files(), strict=True))


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=CALL_S)
    return int(answer.status)


async def refused(channel: grpc.aio.Channel) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(channel)
    return caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_on_every_interface_accepts_a_certificate(world: World, certificates: Certificates) -> None:
    port = claim_port(0, "")
    address = f"127.0.0.1:{port}"
    await store(world, b"one")
    async with sidecar(world, QUEUE_LISTEN=f"0.0.0.0:{port}", **given(certificates)):
        async with grpc.aio.secure_channel(address, certificates.client(certificates.authority)) as channel:
            request = pb.SQSReceiveMessageRequest(visibility_timeout=30, wait_time=5, maximum_number_of_messages=1)
            (message,) = (await SQSServiceStub(channel).ReceiveMessage(request, timeout=2 * CALL_S)).messages
            assert message.messageBody == "one"
        for stranger in (None, trustme.CA()):
            async with grpc.aio.secure_channel(address, certificates.client(stranger)) as channel:
                assert await refused(channel)
        async with grpc.aio.insecure_channel(address) as channel:
            assert await refused(channel)


async def test_tls_alone_asks_for_no_client_certificate_and_proves_who_it_is(
    world: World, certificates: Certificates
) -> None:
    env = given(certificates)
    del env["QUEUE_CLIENT_CA"]
    port = claim_port(0, "")
    async with sidecar(world, QUEUE_LISTEN=f"127.0.0.1:{port}", **env):
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", certificates.client(None)) as channel:
            assert await health(channel) == SERVING
        other = Certificates(trustme.CA(), certificates.folder)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", other.client(None)) as channel:
            assert await refused(channel)


async def test_on_every_interface_without_certificates_it_ends_with_one_line(world: World) -> None:
    env = {**sidecar_env(world), "QUEUE_LISTEN": "0.0.0.0:0", "LOG_FORMAT": "json"}
    log = world.folder / "open.log"
    async with service_task("queue", env, claim_port(0, ""), log, role="queue") as task, asyncio.timeout(30):
        assert await task.child.wait() == 1
    assert "QUEUE_LISTEN 0.0.0.0:0 is reachable from other machines; listen on 127.0.0.1" in complaint(log.read_text())


async def test_a_unix_socket_serves_and_one_left_by_a_killed_sidecar_is_in_nobodys_way(world: World) -> None:
    listen = f"unix:{world.folder / 'q.sock'}"
    for _ in range(2):
        async with sidecar(world, QUEUE_LISTEN=listen) as (task, channel):
            assert await health(channel) == SERVING
            task.child.signal(signal.SIGKILL)
            await task.child.wait()
        assert (world.folder / "q.sock").exists()


async def test_a_unix_socket_that_was_removed_is_reported(world: World) -> None:
    path = world.folder / "q.sock"
    async with sidecar(world, QUEUE_LISTEN=f"unix:{path}") as (task, _):
        path.unlink()

        async def is_told() -> bool:
            status, body = await get(f"{task.health_url}/readyz")
            return status == 503 and "its Unix socket was removed" in body

        await eventually(is_told, what="not ready")


async def test_a_second_sidecar_on_a_unix_socket_ends_with_one_line_and_the_first_serves_on(world: World) -> None:
    listen = f"unix:{world.folder / 'q.sock'}"
    async with sidecar(world, QUEUE_LISTEN=listen) as (_, channel):
        env, log = {**sidecar_env(world), "QUEUE_LISTEN": listen, "LOG_FORMAT": "json"}, world.folder / "second.log"
        async with service_task("queue", env, claim_port(0, ""), log, role="queue") as second, asyncio.timeout(30):
            assert await second.child.wait() == 1
        assert f"QUEUE_LISTEN {listen} is served by another program; stop that" in complaint(log.read_text())
        assert await health(channel) == SERVING
        async with grpc.aio.insecure_channel(listen) as fresh:
            assert await health(fresh) == SERVING


async def test_health_is_reported_for_the_server_and_for_its_service(shared: Shared) -> None:
    _, channel = shared
    assert await health(channel) == SERVING
    assert await health(channel, contract.GRPC_SERVICE) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(channel, "another.Service")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_tells_the_services_and_their_calls(shared: Shared) -> None:
    _, channel = shared
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = (
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=contract.GRPC_SERVICE),
    )
    listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(asked), timeout=CALL_S)]
    assert {service.name for service in listed.list_services_response.service} == {
        contract.GRPC_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    files = map(descriptor_pb2.FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
    (service,) = [service for file in files for service in file.service]
    assert {"ReceiveMessage", "DeleteMessage"} < {method.name for method in service.method}
