"""The cheap MQTT client, against the real nats-server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
import trustme
from nats.aio.client import Client

from benchmark.load.mqtt import Mqtt, Refused, Will, _packet, _packets
from local.process import accepts, claim_port, running
from local.servers.nats_server import binary
from service.nats.connection import roundtrip
from tests.support.world import eventually

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
async def ports(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[int, int]]:
    """Start a server with a user `device` for MQTT; yield its NATS and its MQTT port."""
    folder = tmp_path_factory.mktemp("mqtt")
    port, mqtt, file = claim_port(0, ""), claim_port(0, ""), folder / "server.conf"
    file.write_text(
        f'server_name: one\nlisten: "{HOST}:{port}"\njetstream {{ store_dir: "{folder}" }}\n'
        f'mqtt {{ listen: "{HOST}:{mqtt}" }}\n'
        "accounts { A { jetstream: enabled, users: [{ user: device, password: secret, permissions {\n"
        '  publish: ">", subscribe: ["pulse", "$MQTT.>", "back.>"] } }, { user: all, password: secret }] } }\n'
    )
    async with running("nats-server", [binary(), "-c", str(file)], folder / "log") as child:
        await child.until(lambda: accepts(mqtt))
        yield port, mqtt


@pytest.fixture
async def nats_client(ports: tuple[int, int]) -> AsyncIterator[Client]:
    client = await nats.connect(f"nats://{HOST}:{ports[0]}", user="all", password="secret")
    yield client
    await client.close()


async def connect(ports: tuple[int, int], client_id: str = "d1", **options: object) -> Mqtt:
    return await Mqtt.connect(HOST, ports[1], client_id, user="device", password="secret", **options)  # type: ignore[arg-type]


async def test_a_publish_returns_when_the_server_has_stored_it(ports: tuple[int, int], nats_client: Client) -> None:
    readings = await nats_client.subscribe("data.>")
    await roundtrip(nats_client)
    mqtt = await connect(ports)
    await mqtt.publish("data/d1/t", b"one")
    await mqtt.publish("data/d1/t", b"x" * 300_000)
    await mqtt.publish("data/d1/t", b"zero", qos=0)
    assert [len((await readings.next_msg(5)).data) for _ in range(3)] == [3, 300_000, 4]
    assert (mqtt.acknowledged, mqtt.unacknowledged) == (2, {})
    await mqtt.disconnect()


async def test_what_was_sent_without_waiting_is_counted(ports: tuple[int, int]) -> None:
    mqtt = await connect(ports)
    for number in range(1_000):
        mqtt.send("data/d1/t", b"%d" % number)
    await eventually(lambda: mqtt.acknowledged == 1_000)
    assert mqtt.unacknowledged == {}
    await mqtt.disconnect()


async def test_the_next_connection_sends_again_what_has_no_puback(ports: tuple[int, int], nats_client: Client) -> None:
    mqtt = await connect(ports)
    mqtt.send("data/d1/t", b"lost")
    mqtt.abort()
    await mqtt.closed
    readings = await nats_client.subscribe("data.>")
    await roundtrip(nats_client)
    again = await connect(ports, unacknowledged=mqtt.unacknowledged)
    await again.publish("data/d1/t", b"next")
    got = [(await readings.next_msg(5)).data]
    while got[-1] != b"next":
        got.append((await readings.next_msg(5)).data)
    assert set(got[:-1]) == {b"lost"}, "again, even if the server had it from the first connection"
    await eventually(lambda: again.acknowledged == 2)
    await again.disconnect()


async def test_a_will_is_published_after_an_abort_and_not_after_a_disconnect(
    ports: tuple[int, int], nats_client: Client
) -> None:
    wills = await nats_client.subscribe("lwt.*")
    await roundtrip(nats_client)
    leaving = await connect(ports, "left", will=Will("lwt/left", b""))
    await leaving.disconnect()
    dying = await connect(ports, "died", will=Will("lwt/died", b"gone"))
    dying.abort()
    will = await wills.next_msg(5)
    assert (will.subject, will.data) == ("lwt.died", b"gone")


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_subscription_gets_what_nats_publishes(ports: tuple[int, int], nats_client: Client, qos: int) -> None:
    came: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    mqtt = await connect(ports, on_message=lambda topic, payload: came.put_nowait((topic, payload)))
    await mqtt.subscribe("pulse", qos)
    await nats_client.publish("pulse", b"now")
    async with asyncio.timeout(5):
        assert await came.get() == ("pulse", b"now")
    other = await connect(ports, "d2")
    await other.publish("pulse", b"then")
    async with asyncio.timeout(5):
        assert await came.get() == ("pulse", b"then")
    for each in (mqtt, other):
        await each.disconnect()


async def test_a_refused_subscription_raises(ports: tuple[int, int]) -> None:
    mqtt = await connect(ports)
    with pytest.raises(PermissionError, match="data/#"):
        await mqtt.subscribe("data/#")
    await mqtt.disconnect()


async def test_a_refused_connection_raises_with_the_return_code(ports: tuple[int, int]) -> None:
    with pytest.raises(Refused, match="may not connect") as refused:
        await Mqtt.connect(HOST, ports[1], "d1", user="device", password="wrong")
    assert refused.value.code == 5


async def test_a_connection_that_the_server_closes_ends_what_waits(ports: tuple[int, int]) -> None:
    mqtt = await connect(ports)
    with pytest.raises(ConnectionResetError):
        await mqtt.publish("a blank/in it", b"")
    await mqtt.closed
    with pytest.raises(ConnectionResetError):
        await mqtt.publish("data/d1/t", b"")


async def test_pings_keep_an_idle_connection(ports: tuple[int, int]) -> None:
    mqtt = await connect(ports, keepalive_s=1)
    await asyncio.sleep(2.5)
    await mqtt.publish("data/d1/t", b"")
    await mqtt.disconnect()


async def test_a_session_that_is_kept_is_named(ports: tuple[int, int]) -> None:
    seen = []
    for _ in range(2):
        mqtt = await connect(ports, "kept", clean=False)
        seen.append(mqtt.session_present)
        await mqtt.subscribe("pulse", 1)
        await mqtt.disconnect()
    assert seen == [False, True]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_packet_is_found_however_it_is_cut(length: int) -> None:
    packet = _packet(0x30, b"x" * length)
    assert list(_packets(packet + b"\x30")) == [(0x30, len(packet) - length, len(packet))]
    for end in {1, 2, 3, 4, len(packet) - 1} & set(range(len(packet))):
        assert list(_packets(packet[:end])) == []


async def test_tls(tmp_path: Path) -> None:
    authority, port, mqtt = trustme.CA(), claim_port(0, ""), claim_port(0, "")
    certificate, file = tmp_path / "server.pem", tmp_path / "server.conf"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    file.write_text(
        f'server_name: one\nlisten: "{HOST}:{port}"\njetstream {{ store_dir: "{tmp_path}" }}\n'
        f'mqtt {{ listen: "{HOST}:{mqtt}", tls {{ cert_file: "{certificate}", key_file: "{certificate}" }} }}\n'
    )
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running("nats-server", [binary(), "-c", str(file)], tmp_path / "log") as child:
        await child.until(lambda: accepts(mqtt))
        client = await Mqtt.connect("localhost", mqtt, "d1", tls=trusting)
        await client.publish("data/d1/t", b"")
        await client.disconnect()
        with pytest.raises(ssl.SSLCertVerificationError):
            await Mqtt.connect("localhost", mqtt, "d1", tls=ssl.create_default_context())
        with pytest.raises(ConnectionError):
            await Mqtt.connect("localhost", mqtt, "d1")
