"""Set the seed flag, so that no task adds random rows: before the first row, because a task may start at any time."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

import nats.errors
from nats.js.errors import APIError, KeyNotFoundError
from nats.js.kv import KeyValue

from service.contracts import customer as contract
from service.customer.store.seeding import LEASE_S, is_seeded
from service.nats import jetstream
from service.nats.connection import Connection
from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError
from service.runtime.settings import load

POLL_S: Final = 0.25
SEEDING_S: Final = 120.0
"""Longest time that a task may keep seeding: it seeds a million rows at most."""
REMEDY: Final = (
    "set NATS_URL and NATS_CREDENTIALS as the service has them, or say --no-seed-flag where no task seeds (SEED_ROWS=0)"
)


async def set_flag() -> str:
    """Wait until no task adds rows any more; return what the operator must know about existing rows, or ''.

    Raises `ServiceError` if the bucket cannot be reached with NATS_URL and NATS_CREDENTIALS.
    """
    if not (os.environ.get("NATS_URL") or os.environ.get("NATS_CREDENTIALS")):
        raise ServiceError("the seed flag cannot be set: there is no NATS_URL", REMEDY)
    try:
        connection = Connection(
            load(NatsSettings), name="customer-balance-load", inbox_prefix=contract.INBOX_PREFIX, on_lost=lambda _: None
        )
        try:
            await connection.open()
            bucket = await jetstream.open_bucket(connection.jetstream, contract.BUCKET, (contract.SEED_KEY,))
            return await _set(bucket)
        finally:
            await connection.close()
    except ServiceError as error:
        raise ServiceError(f"the seed flag cannot be set: {error.problem}", REMEDY) from None


async def _set(bucket: KeyValue) -> str:
    try:
        if await is_seeded(bucket):
            return "the seed flag was set: rows that a task seeded may be there"
        await bucket.put(contract.SEED_KEY, contract.SEED_DONE)
        # A task checks the flag once it holds the lease: only one that already holds it now may still add rows.
        if await _until_free(bucket):
            return "a task was seeding random rows, and has ended: they are there"
    except (nats.errors.Error, APIError) as error:
        raise jetstream.explain(f"bucket {contract.BUCKET}", error, done="written") from None
    return ""


async def _until_free(bucket: KeyValue) -> bool:
    """Wait until no task is seeding: its lease is gone, or was not renewed in time. Return whether one was."""
    began_s = moved_s = time.monotonic()
    seen, moved = 0, False
    while True:
        try:
            revision = (await bucket.get(contract.SEED_LEASE_KEY)).revision or 0
        except KeyNotFoundError:
            return bool(seen)
        now = time.monotonic()
        if revision != seen:
            moved, seen, moved_s = bool(seen), revision, now
        elif now - moved_s > LEASE_S:
            return moved
        if now - began_s > SEEDING_S:
            raise ServiceError("a task goes on seeding", "see its log")
        await asyncio.sleep(POLL_S)
