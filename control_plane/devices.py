"""Devices of an account on your own nats-server: which may connect over MQTT, and with which JWT (ADR 17).

A device's JWT is signed with the account's signing key for devices, and names the device: its name is its permission.
The JWT is stored nowhere. The key of its user is derived from the operator's seed, the device's name and a serial
number, so it can be revoked even if nobody has the JWT any more; the serial is the first whose key the account has not
revoked. The bucket `device-register` lists the devices that were added; the role's bucket says which are connected.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError
from nats.js.errors import Error as JetStreamError

from control_plane.auth import claims, scopes
from control_plane.errors import ProvisioningError, UsageError
from control_plane.parts import DEVICE, REGISTER
from control_plane.self_hosted.provider import TIMEOUT_S, SelfHosted
from control_plane.settings import KV_PREFIX
from service.contracts import devices as contract

AT_ONCE: Final = 500
REVOKED: Final = "revoked"
NEVER_SEEN: Final = "never seen"
_WRONG_LAST_SEQUENCE: Final = 10071
_ID: Final = re.compile(contract.DEVICE_ID)


@dataclass(frozen=True)
class Minted:
    """A device and its JWT, which does not appear in its repr."""

    name: str
    jwt: str = field(repr=False)


@dataclass(frozen=True)
class Device:
    name: str
    state: str
    """As the role reports it, or `never seen`, or `revoked`."""
    since: float | None
    """Seconds since 1970, as the role reports it."""
    added: float | None
    """Seconds since 1970; None if the register lacks it."""


def check_names(names: Iterable[str]) -> list[str]:
    """Return the names without duplicates. Raise `UsageError` for an invalid device id: it would be a permission."""
    found = list(dict.fromkeys(names))
    for name in found:
        if not _ID.fullmatch(name):
            raise UsageError(f"{name!r} is no device's name: 1 to 36 letters, digits, _ and -; nothing was done")
    if not found:
        raise UsageError("there is no name; give one, or --file with one on each line")
    return found


class Devices:
    """The devices of one account. Each call raises `ProvisioningError` if the account takes no devices."""

    def __init__(self, provider: SelfHosted, account: str) -> None:
        self._provider = provider
        self._account = account

    async def add(self, names: Sequence[str]) -> AsyncIterator[list[Minted]]:
        """Register devices and yield their JWTs in batches. A device that was already added gets one more JWT."""
        body = await self._body()
        generation = scopes.generation(scopes.of(body, DEVICE.name))
        signer = self._provider.signer(self._account, DEVICE.name, generation)
        async with self._provider.administrator(self._account) as client:
            for start in range(0, len(names), AT_ONCE):
                some = [(name, self._serial(body, name)) for name in names[start : start + AT_ONCE]]
                await _register(client, some)
                keys = [(name, self._provider.device_key(self._account, name, serial)) for name, serial in some]
                yield [
                    Minted(name, claims.scoped_user_jwt(name, key, signer, account=self._account)) for name, key in keys
                ]

    async def known(self) -> list[Device]:
        """Return every device that was added or seen, sorted by name."""
        body, register, seen = await self._found()
        return [self._device(body, name, register.get(name), seen.get(name)) for name in sorted({*register, *seen})]

    async def revoke(self, names: Sequence[str]) -> list[str]:
        """Revoke every JWT of these devices, which disconnects them; return those that were not revoked before.

        Raise `UsageError` if a device was never added; none is revoked then.
        """
        body, register, seen = await self._found()
        if unknown := [name for name in names if name not in register and name not in seen]:
            remedy = "if the register lost it, add it again and then revoke it: that voids every JWT it has"
            raise UsageError(f"there is no device {unknown[0]}; see `device list`; {remedy}; nothing was revoked")
        valid = [name for name in names if not self._is_revoked(body, name, register.get(name))]
        if valid:
            newest = {name: max(_serial_in(register.get(name)), self._serial(body, name)) for name in valid}
            handed_out = [(name, serial) for name in valid for serial in range(newest[name] + 1)]
            keys = (self._provider.device_key(self._account, name, serial) for name, serial in handed_out)
            await self._provider.revoke(self._account, *keys)
            if lost := [(name, newest[name]) for name in valid if name not in register]:
                async with self._provider.administrator(self._account) as client:
                    await _note_revoked(client, lost)
        return valid

    async def rotate(self, *, keep_old: bool) -> str:
        """Add a signing key, or, if `keep_old` is false, revoke every JWT of the former key; return what was done.

        Raise `UsageError` if that would disconnect all devices, or if the former key is still valid.
        """
        *former, newest = scopes.of_user(await self._body(), DEVICE.name)
        if keep_old and former:
            raise UsageError(f"the former key is still valid; `rotate --user {DEVICE.name}` makes it void first")
        if keep_old:
            await self._provider.renew(self._account, DEVICE.name)
            return f"`device add` signs with a new key; when each device has its new JWT: rotate --user {DEVICE.name}"
        if not former:
            remedy = "give --keep-old, then each device a new JWT with `device add`, then this"
            raise UsageError(f"this would throw out every device; {remedy}")
        for scope in former:
            await self._provider.retire(self._account, DEVICE.name, scope["key"])
        return f"voided   every JWT of devices that is older than signing key {scopes.generation(newest)}"

    async def _found(self) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Return the account's settings, its register, and the role's records."""
        body = await self._body()
        async with self._provider.administrator(self._account) as client:
            return body, await _entries(client, REGISTER.name), await _entries(client, contract.BUCKET)

    async def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = (await self._provider.claims_of(self._account))["nats"]
        if DEVICE.name not in scopes.newest(body):
            raise ProvisioningError("the account takes no devices; run create --with devices")
        return body

    def _serial(self, body: Mapping[str, Any], name: str) -> int:
        revoked, serial = body.get("revocations") or {}, 0
        while revoked and self._provider.device_key(self._account, name, serial) in revoked:
            serial += 1
        return serial

    def _is_revoked(self, body: Mapping[str, Any], name: str, entry: Mapping[str, Any] | None) -> bool:
        """Return whether its newest JWT is revoked. Without an entry, that JWT is unknown: it may be valid."""
        return entry is not None and self._serial(body, name) > _serial_in(entry)

    def _device(
        self, body: Mapping[str, Any], name: str, entry: Mapping[str, Any] | None, record: Mapping[str, Any] | None
    ) -> Device:
        state, since = (record or {}).get("state") or NEVER_SEEN, (record or {}).get("since")
        if self._is_revoked(body, name, entry):
            state = REVOKED
        return Device(name, state, since, (entry or {}).get("added"))


def _serial_in(entry: Mapping[str, Any] | None) -> int:
    return int((entry or {}).get("serial", 0))


async def _register(client: Client, some: Sequence[tuple[str, int]]) -> None:
    """Write devices to the register. Raise `ProvisioningError` with the server's reason."""
    jetstream, now = client.jetstream(timeout=TIMEOUT_S), round(time.time(), 3)
    entries = [(name, json.dumps({"added": now, "serial": serial})) for name, serial in some]
    try:
        await asyncio.gather(
            *(jetstream.publish(f"$KV.{REGISTER.name}.{name}", entry.encode()) for name, entry in entries)
        )
    except (nats.errors.Error, JetStreamError) as error:
        remedy = "run create --with devices, then this again"
        raise ProvisioningError(f"bucket {REGISTER.name} takes no device ({error}); {remedy}") from None


async def _note_revoked(client: Client, some: Sequence[tuple[str, int]]) -> None:
    """Add devices that the register lacks, unless `device add` has added them meanwhile."""
    jetstream, if_missing = client.jetstream(timeout=TIMEOUT_S), {"Nats-Expected-Last-Subject-Sequence": "0"}
    for name, serial in some:
        try:
            entry = json.dumps({"serial": serial}).encode()
            await jetstream.publish(f"$KV.{REGISTER.name}.{name}", entry, headers=if_missing)
        except APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise


async def _entries(client: Client, bucket: str) -> dict[str, dict[str, Any]]:
    """Return the single-token keys of a bucket, with their values."""
    jetstream, prefix = client.jetstream(timeout=TIMEOUT_S), f"$KV.{bucket}."
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, inactive_threshold=60
    )
    stream = KV_PREFIX + bucket
    try:
        reader = await jetstream.pull_subscribe(f"{prefix}*", stream=stream, config=config)
    except NotFoundError:
        raise ProvisioningError(f"there is no bucket {bucket}; run create --with devices") from None
    found: dict[str, dict[str, Any]] = {}
    info = await reader.consumer_info()
    while left := (await reader.consumer_info()).num_pending:
        # Pending messages may have been overwritten, and JetStream may be briefly unavailable (`PatientClient`).
        with suppress(TimeoutError, ServiceUnavailableError):
            messages = await reader.fetch(min(left, AT_ONCE), timeout=1)
            found |= {each.subject.removeprefix(prefix): json.loads(each.data) for each in messages if each.data}
    await reader.unsubscribe()
    await jetstream.delete_consumer(stream, info.name)
    return found
