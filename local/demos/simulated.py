"""A simulated device, as a person would write one with paho-mqtt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from service.devices.msg_pb2 import LWT, Connect, SensorData


class Device:
    """Connects again by itself, and then sends again each reading that has no PUBACK."""

    def __init__(self, name: str, password: str, port: int, *, delay_s: int, silence_s: int = 0) -> None:
        self.name = name
        self._password = password
        self.readings: list[SensorData] = []
        """What it has published."""
        self._delay_s = delay_s
        self._silence_s = silence_s
        self._port = port
        self._session = 0
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name)
        self._client.username_pw_set(name, password)
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(100)
        self._client.on_connect = self._greet
        self._client.on_disconnect = self._next_session
        self._next_session()

    def start(self) -> None:
        """Connect. Raise `OSError` when nobody listens."""
        self._client.connect("127.0.0.1", self._port, keepalive=5)
        self._client.loop_start()

    def read(self, count: int = 1) -> None:
        """Publish that many readings, each with another temperature; do not wait for their PUBACKs."""
        for _ in range(count):
            number = len(self.readings)
            self._publish(SensorData(device=self.name, temp=15 + number / 8, rh=50, epoch=int(time.time())))

    def repeat(self) -> None:
        """Publish every reading again, as a device does that has not seen a PUBACK."""
        again, self.readings = self.readings, []
        for reading in again:
            self._publish(reading)

    def drop(self) -> None:
        """Lose the connection; it connects again a second later."""
        self._socket().shutdown(2)

    def die(self) -> None:
        """End without a word, as when its power fails."""
        self._client.loop_stop()
        if socket := self._socket():  # none if the broker was first
            socket.close()

    def again(self) -> Device:
        """Return the device as it starts after it died: it remembers what it has published."""
        other = Device(self.name, self._password, self._port, delay_s=self._delay_s, silence_s=self._silence_s)
        other.readings = self.readings
        return other

    def stop(self) -> None:
        """Leave in order."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected()

    def _socket(self) -> Any:
        return self._client.socket()

    def _publish(self, reading: SensorData) -> None:
        self.readings.append(reading)
        self._client.publish(f"data/{self.name}/climate", reading.SerializeToString(), qos=1)

    def _next_session(self, *_: Any) -> None:
        self._session = time.time_ns() // 1_000_000
        will = LWT(device=self.name, delay=self._delay_s, session=self._session)
        self._client.will_set(f"lwt/{self.name}", will.SerializeToString(), qos=1)

    def _greet(self, *_: Any) -> None:
        connect = Connect(device=self.name, session=self._session, silence=self._silence_s)
        self._client.publish(f"connect/{self.name}", connect.SerializeToString(), qos=1)


@contextmanager
def stopped_at_the_end(devices: dict[str, Device]) -> Iterator[None]:
    """Let no device's thread outlive the demonstration."""
    try:
        yield
    finally:
        for device in devices.values():
            device.stop()
