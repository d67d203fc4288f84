"""How a device connects, ready to paste: the `mosquitto_pub` command, and the firmware's `cfg.toml`."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from control_plane.devices import Minted
from control_plane.errors import UsageError

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
SENSOR: Final = "sensor"
"""Any word: `data/NAME/SENSOR` is the topic of a device's readings."""


DELAY_S: Final = 10
"""A device that reconnects within this time is not reported as away."""


@dataclass(frozen=True)
class Broker:
    """Where devices connect; with `tls`, they also check its certificate."""

    host: str
    port: int
    tls: bool = False
    authority: str = ""
    """Path of the CA file that devices trust; empty: their system's CAs."""

    @classmethod
    def parse(cls, url: str, server: str | None) -> Broker:
        """Parse `mqtt[s]://host[:port]`; without a URL, return the nats-server's host and the default port.

        Raises `UsageError`.
        """
        try:
            if not url:
                return cls(urlsplit((server or "").partition(",")[0]).hostname or "localhost", PORTS["mqtt"])
            address = urlsplit(url)
            if address.scheme in PORTS and address.hostname and not address.path.strip("/"):
                port = address.port or PORTS[address.scheme]
                return cls(address.hostname, port, tls=address.scheme == "mqtts")
        except ValueError:  # a port that is not a number
            pass
        raise UsageError(f"--mqtt {url} is no address; give one such as mqtts://devices.example:8883")

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def publish_line(broker: Broker, minted: Minted, path: Path | None) -> str:
    """Return a command that publishes a reading, which becomes a row: 21.5 °C, 40 %, at its arrival time.

    The JWT goes into an options file of mosquitto_pub, which only its owner can read and which the command removes:
    every user of the machine can see a program's arguments. `printf` is a shell builtin.
    https://mosquitto.org/man/mosquitto_pub-1.html (options)
    """
    password = f'"$(cat {shlex.quote(str(path))})"' if path else minted.jwt
    trusted = f"--cafile {shlex.quote(broker.authority)}" if broker.authority else "--tls-use-os-certs"
    tls = f" {trusted}" if broker.tls else ""
    return (
        "(umask 077; XDG_CONFIG_HOME=$(mktemp -d); export XDG_CONFIG_HOME; trap 'rm -r \"$XDG_CONFIG_HOME\"' EXIT; "
        f"printf '%s %s\\n' -P {password} >\"$XDG_CONFIG_HOME/mosquitto_pub\"; "
        f"printf '{_octal(_reading(minted.name))}' | mosquitto_pub -h {broker.host} -p {broker.port}{tls} -V mqttv311 "
        f"-i {minted.name} -u {minted.name} -q 1 -t data/{minted.name}/{SENSOR} -s)"
    )


def cfg_toml(broker: Broker, minted: Minted, path: Path | None) -> str:
    """Return the lines of the firmware's `cfg.toml` about MQTT."""
    values = _firmware(broker, minted, path)
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())


def described(broker: Broker, minted: Minted, path: Path | None) -> dict[str, Any]:
    """Return the same for a script, with the JWT or the file that holds it."""
    secret = {"jwt": minted.jwt} if path is None else {"file": str(path)}
    return {"name": minted.name, **secret, "publish": publish_line(broker, minted, path), "cfg": {
        name: value for name, value in _firmware(broker, minted, path).items() if name != "mqtt_pass"
    }}  # fmt: skip


def _firmware(broker: Broker, minted: Minted, path: Path | None) -> dict[str, Any]:
    name = minted.name
    return {
        "broker_uri": broker.url,
        "mqtt_user": name,
        "mqtt_pass": minted.jwt if path is None else f"the text of {path}",
        "connect_topic": f"connect/{name}",
        "pulse_topic": "pulse",
        "data_topic": f"data/{name}/{SENSOR}",
        "lwt_topic": f"lwt/{name}",
        "lwt_delay": DELAY_S,
    }


def _reading(name: str) -> bytes:
    """Return `msg.SensorData{device, temp=21.5, rh=40}`: https://protobuf.dev/programming-guides/encoding/"""
    text = name.encode()
    return b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\xac\x41" + b"\x1d\x00\x00\x20\x42"


def _octal(raw: bytes) -> str:
    """Escape bytes for `printf`: octal is the only escape that every implementation supports."""
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}" for byte in raw)
