"""Read what `$MQTT_msgs` still has of a device: signs that are not applied, or not acknowledged."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from service.contracts import devices as contract
from service.devices.presence.ask import Asker, Reply, Request, Unanswered, failure
from service.devices.topic import CONNECT, LWT

_GET: Final = f"$JS.API.STREAM.MSG.GET.{contract.MQTT_STREAM}"
_CONSUMER: Final = f"$JS.API.CONSUMER.INFO.{contract.MQTT_STREAM}"
_INFO: Final = f"$JS.API.STREAM.INFO.{contract.MQTT_STREAM}"
NO_MESSAGE: Final = 10037
"""https://github.com/nats-io/nats-server/blob/main/server/errors.json (JSNoMessageFoundErr)"""


class Stored(NamedTuple):
    subject: str
    seq: int
    at: float
    data: bytes


class Progress(NamedTuple):
    floor: int
    """Number of the delivery up to which all deliveries are acknowledged."""
    waiting: int
    """Messages that are not acknowledged, delivered or not."""


class Stream:
    """Asks the stream's leader, which has each message that was acknowledged to its device. Raises `Unanswered`."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def progress(self, consumer: str) -> Progress:
        """Return how far a consumer of the stream is, across all processes."""
        reply = await self._asker.one(Request(f"{_CONSUMER}.{consumer}", b""))
        if failure(reply)[0]:
            raise Unanswered(f"consumer {consumer}: {failure(reply)[1]}")
        info = orjson.loads(reply.data)
        return Progress(info["ack_floor"]["consumer_seq"], info["num_pending"] + info["num_ack_pending"])

    async def next_lives(self, after: Mapping[str, int]) -> dict[str, Stored]:
        """Return each device's first connect or will above a sequence; those without one are left out.

        Two requests for two subjects cost the server less than one for a wildcard, which reads a whole block.
        """
        connects, wills = [
            await self._get({
                device: {"seq": seq + 1, "next_by_subj": f"{contract.MQTT_PREFIX}{kind}.{device}"}
                for device, seq in after.items()
            })
            for kind in (CONNECT, LWT)
        ]  # fmt: skip
        return {
            device: min((kind[device] for kind in (connects, wills) if device in kind), key=lambda stored: stored.seq)
            for device in after if device in connects or device in wills
        }  # fmt: skip

    async def next_readings(self, after: Mapping[str, int]) -> dict[str, Stored]:
        """Return each device's first reading above a sequence; those without one are left out."""
        return await self._get({
            device: {"seq": seq + 1, "next_by_subj": f"{contract.MQTT_PREFIX}data.{device}.>"}
            for device, seq in after.items()
        })  # fmt: skip

    async def last_readings(self, devices: Sequence[str]) -> dict[str, Stored]:
        """Return each device's last reading; those without one are left out."""
        return await self._get(
            {device: {"last_by_subj": f"{contract.MQTT_PREFIX}data.{device}.>"} for device in devices}
        )

    async def last_seq(self) -> int:
        """Return the sequence of the last message ever stored."""
        reply = await self._asker.one(Request(_INFO, b""))
        if failure(reply)[0]:
            raise Unanswered(f"{contract.MQTT_STREAM}: {failure(reply)[1]}")
        return int(orjson.loads(reply.data)["state"]["last_seq"])

    async def _get(self, asked: Mapping[str, Mapping[str, Any]]) -> dict[str, Stored]:
        replies = await self._asker.each([Request(_GET, orjson.dumps(what)) for what in asked.values()])
        return {device: stored for device, reply in zip(asked, replies, strict=True) if (stored := _stored(reply))}


def _stored(reply: Reply) -> Stored | None:
    code, problem = failure(reply)
    if code == NO_MESSAGE:
        return None
    if code:
        raise Unanswered(f"{contract.MQTT_STREAM}: {problem}")
    message = orjson.loads(reply.data)["message"]
    at = datetime.fromisoformat(message["time"]).timestamp()
    return Stored(message["subject"], message["seq"], at, b64decode(message.get("data", "")))
