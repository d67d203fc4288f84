"""Run the real nats-server, in operator mode with JWT authentication and JetStream."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.auth import claims
from control_plane.auth.claims import Key
from local.process import Child, LocalError, accepts, running

_CONFIG = """\
server_name: {name}
listen: "127.0.0.1:{port}"
max_payload: 1MB
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"
jetstream {{ store_dir: "{folder}/jetstream", max_file_store: 100TB, max_memory_store: 64MB }}
operator: {operator}
system_account: {system}
resolver {{ type: full, dir: "{folder}/accounts", allow_delete: true, interval: "2m" }}
resolver_preload {{ {system}: {system_jwt} }}
"""
_CLUSTER = """\
cluster {{ name: {cluster}, listen: "127.0.0.1:{port}", routes: [{routes}]{advertised} }}
"""
_GATEWAY = """\
gateway {{ name: {cluster}, listen: "127.0.0.1:{port}", gateways: [{gateways}] }}
"""
_MQTT = """\
mqtt {{ listen: "{host}:{port}"{tls} }}
"""
_TLS = ', tls {{ cert_file: "{certificate}", key_file: "{certificate}" }}'


@dataclass(frozen=True)
class Mqtt:
    """Where a server listens for MQTT 3.1.1. It has one such listener: it speaks either TLS or plain MQTT.

    https://docs.nats.io/running-a-nats-service/configuration/mqtt/mqtt_config
    """

    port: int
    host: str = "127.0.0.1"
    certificate: Path | None = None
    """A PEM file with key and certificate chain; None: no TLS."""

    @property
    def config(self) -> str:
        tls = _TLS.format(certificate=self.certificate.resolve()) if self.certificate else ""
        return _MQTT.format(host=self.host, port=self.port, tls=tls)


@dataclass(frozen=True)
class Node:
    """One server of a cluster: the route ports of all its servers, and the gateways of all clusters."""

    number: int
    route_ports: Sequence[int]
    cluster: str = "local"
    gateway_port: int = 0
    gateways: Mapping[str, int] = field(default_factory=dict)
    """Cluster name -> gateway port."""
    is_hidden: bool = False
    """Nobody learns its address, or another's, from it: servers and clients keep to those that they were given."""

    @property
    def name(self) -> str:
        return f"{self.cluster}-{self.number}"

    @property
    def config(self) -> str:
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self.route_ports)
        advertised = ', advertise: "127.0.0.1:1", no_advertise: true' if self.is_hidden else ""
        port = self.route_ports[self.number]
        cluster = _CLUSTER.format(cluster=self.cluster, port=port, routes=routes, advertised=advertised)
        if not self.gateways:
            return cluster
        gateways = ", ".join(
            f'{{ name: {name}, url: "nats://127.0.0.1:{port}" }}' for name, port in self.gateways.items()
        )
        return cluster + _GATEWAY.format(cluster=self.cluster, port=self.gateway_port, gateways=gateways)


def binary() -> str:
    """Return the wheel's binary beside this interpreter, else the one on the PATH. Raises `LocalError`."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise LocalError("nats-server is not installed; run `make setup`")
    return found


@asynccontextmanager
async def nats_server(
    folder: Path, port: int, *, operator: Key, system: Key, node: Node | None = None, mqtt: Mqtt | None = None
) -> AsyncIterator[Child]:
    """Run it on `port` with its stores in `folder`, which are kept. Push accounts to its resolver.

    It runs alone, or as one `node` of a cluster; devices connect to `mqtt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nats-server.conf"
    config.write_text(
        _CONFIG.format(
            name=node.name if node else "local",
            port=port,
            folder=folder.resolve(),
            operator=claims.operator_jwt("local", operator, system.public),
            system=system.public,
            system_jwt=claims.account_jwt("SYS", system.public, operator),
        )
        + (node.config if node else "")
        + (mqtt.config if mqtt else "")
    )
    async with running("nats-server", [binary(), "-c", str(config)], folder / "nats-server.log") as child:
        await child.until(lambda: accepts(port))
        if mqtt:
            await child.until(lambda: accepts(mqtt.port))
        yield child
