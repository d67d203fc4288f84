"""`python -m examples.device NAME`: a device that reads a made-up sensor; a line for each reading stored.

MQTT is the broker's HOST:PORT (127.0.0.1:1883), MQTT_CA the file of its authority if it speaks TLS, MQTT_PASSWORD the
file of the device's password (NAME.jwt), EVERY the seconds between two readings (1).
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from service.devices.msg_pb2 import LWT, Connect, SensorData

DELAY_S: Final = 10
"""How long it may be away before that is an outage."""
SILENCE_S: Final = 60
"""How long it may say nothing before it counts as gone."""


def main(name: str) -> None:
    host, _, port = os.environ.get("MQTT", "127.0.0.1:1883").rpartition(":")
    password = Path(os.environ.get("MQTT_PASSWORD", f"{name}.jwt")).read_text().strip()
    session = 0

    def next_session(*_: Any) -> None:
        """Give the next connection and its will a number, so that a late will of an old one changes nothing."""
        nonlocal session
        session = time.time_ns() // 1_000_000
        client.will_set(f"lwt/{name}", LWT(device=name, delay=DELAY_S, session=session).SerializeToString(), qos=1)

    def greet(*_: Any) -> None:
        connect = Connect(device=name, session=session, silence=SILENCE_S)
        client.publish(f"connect/{name}", connect.SerializeToString(), qos=1)

    client = Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.username_pw_set(name, password)
    if authority := os.environ.get("MQTT_CA"):
        client.tls_set(authority)
    client.on_connect, client.on_disconnect = greet, next_session
    next_session()
    client.connect(host, int(port), keepalive=10)
    client.loop_start()  # from now on it connects again by itself, and sends again what has no PUBACK
    while True:
        temp, rh = round(random.gauss(21, 0.5), 1), round(random.gauss(48, 2), 1)
        reading = SensorData(device=name, temp=temp, rh=rh, epoch=int(time.time()))
        client.publish(f"data/{name}/climate", reading.SerializeToString(), qos=1).wait_for_publish()
        print(f"stored: {temp} °C, {rh} %", flush=True)
        time.sleep(float(os.environ.get("EVERY", "1")))


if __name__ == "__main__":
    main(sys.argv[1])
