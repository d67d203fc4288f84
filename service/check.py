"""`python -m service --check`: all that a task needs, looked at one by one. It takes no request and writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import zip_longest
from typing import Any, Final

import nats.errors
import orjson
from nats.aio.client import Client
from nats.js.errors import APIError

from service import contract, preflight
from service.connection import Connection
from service.errors import ServiceFault
from service.seeding import is_seeded
from service.settings import Settings
from service.table import open_table

USER_INFO: Final = "$SYS.REQ.USER.INFO"
"""https://docs.nats.io/running-a-nats-service/configuration/sys_accounts#user-services"""
USER_INFO_S: Final = 2.0
_PUBLISH: Final = (
    f"{contract.EVENT_PREFIX}1",
    f"$KV.{contract.BUCKET}.{contract.SEED_KEY}",
    f"$KV.{contract.BUCKET}.{contract.SEED_LEASE_KEY}",
)
_SUBSCRIBE: Final = (
    f"{contract.SUBJECT} {contract.QUEUE_GROUP}",
    *(f"$SRV.{verb}.{contract.SERVICE_NAME}" for verb in ("PING", "INFO", "STATS")),
    f"{contract.INBOX_PREFIX}.any",
)
Finding = tuple[str, str]
"""`ok`, `note` or `missing`, and what."""


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """What is there and what is missing, in the order in which a task would want it."""
    async with AsyncExitStack() as stack:
        connection = Connection(settings, on_lost=lambda _: None)
        stack.push_async_callback(connection.close)
        try:
            await connection.open()
        except ServiceFault as fault:
            yield "missing", str(fault)
        else:
            yield "ok", f"NATS at {settings.nats_url}"
            for finding in await _permissions(connection.client):
                yield finding
            jetstream = connection.client.jetstream()
            yield await _found(preflight.check_stream(jetstream), f"stream {contract.STREAM}")
            yield await _found(_bucket(jetstream), f"bucket {contract.BUCKET}")
        yield await _found(_table(settings.ddb_table), f"table {settings.ddb_table}")


async def _found(looking: Awaitable[str | None], what: str) -> Finding:
    try:
        remark = await looking
    except ServiceFault as fault:
        return "missing", str(fault)
    return "ok", f"{what}{f', {remark}' if remark else ''}"


async def _bucket(jetstream: Any) -> str:
    bucket = await preflight.open_bucket(jetstream)
    try:
        return "the seed flag is set" if await is_seeded(bucket) else "no seed flag: the first task will seed"
    except (nats.errors.Error, APIError) as error:
        raise preflight.fault(f"key {contract.SEED_KEY} of bucket {contract.BUCKET}", error) from None


async def _table(name: str) -> str:
    async with open_table(name) as table:
        await table.check()
        return "row 1 is there" if isinstance((await table.read(["1"]))["1"], int) else "no row 1"


async def _permissions(client: Client) -> list[Finding]:
    try:
        reply = await client.request(USER_INFO, timeout=USER_INFO_S)
        given = orjson.loads(reply.data)["data"].get("permissions") or {}
    except (nats.errors.Error, orjson.JSONDecodeError, KeyError, AttributeError):
        return [("note", f"permissions: the server does not tell ({USER_INFO}); what follows shows some of them")]
    denied = [f"publish to {subject}" for subject in _PUBLISH if not allows(given.get("publish"), subject)]
    denied += [f"subscribe to {subject}" for subject in _SUBSCRIBE if not allows(given.get("subscribe"), subject)]
    if not given.get("responses") and not allows(given.get("publish"), "_INBOX.any"):
        denied.append("reply to _INBOX.>")
    if denied:
        return [("missing", f"permission to {what}; use the credentials of user `service`") for what in denied]
    return [("ok", "permissions")]


def allows(rules: Mapping[str, Sequence[str]] | None, subject: str) -> bool:
    """Whether a NATS user with these rules may use `subject`, which may be `SUBJECT QUEUE`."""
    if not rules:
        return True
    allow, deny = rules.get("allow") or (), rules.get("deny") or ()
    allowed = not allow or any(_matches(pattern, subject) for pattern in allow)
    return allowed and not any(_matches(pattern, subject) for pattern in deny)


def _matches(pattern: str, subject: str) -> bool:
    """https://docs.nats.io/nats-concepts/subjects#wildcards"""
    pattern, _, group = pattern.partition(" ")
    subject, _, asked = subject.partition(" ")
    if group and group != asked:
        return False
    for wanted, given in zip_longest(pattern.split("."), subject.split(".")):
        if wanted == ">":
            return given is not None
        if given is None or wanted not in {given, "*"}:
            return False
    return True
