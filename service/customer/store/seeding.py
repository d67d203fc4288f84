"""Seed the table once, however many tasks start at the same moment.

One task holds a lease, a key in the bucket that it renews; the others wait for the `seed` flag. A lease whose
revision has not moved for `LEASE_S` seconds, by the watcher's own clock, belongs to a task that died, and is taken
over by compare-and-set. The lease only saves work: every insert is conditional, so no row is written twice, and a
seeder that was merely slow does no harm.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import nats.errors
import structlog
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from service.contracts.customer import ATTRIBUTES, BUCKET, SEED_DONE, SEED_KEY, SEED_LEASE_KEY, Attributes
from service.customer.store.rows import make_row
from service.dynamodb.errors import TableUnavailableError, reason
from service.dynamodb.table import Row, Table
from service.nats.jetstream import explain
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated

log: Final = structlog.get_logger("service.seeding")
_failing: Final = Repeated(log, "the bucket does not answer")
_unrenewed: Final = Repeated(log, "seeding lease not renewed")

LEASE_S: Final = 3.0
POLL_S: Final = 0.25
CONCURRENT_INSERTS: Final = 64
BALANCES: Final = range(100, 10_000)


@dataclass(frozen=True, slots=True)
class Timing:
    renew_s: float = 0.75
    """Seconds between renewals of the lease."""
    insert_patience_s: float = 30.0
    """Seconds for which a row that DynamoDB does not accept yet is tried again."""
    bucket_patience_s: float = 60.0


class LeaseLostError(Exception):
    """Another task took over the lease."""


async def seed(
    bucket: KeyValue, table: Table, rows: int, owner: str, attributes: Attributes = ATTRIBUTES, *,
    timing: Timing = Timing(),
) -> None:  # fmt: skip
    """Return when the table is seeded, by this task or another.

    Raise `ServiceError` if rows cannot be written (the lease is then free for the next task), or if the bucket cannot
    be read, or cannot be written, for `bucket_patience_s` seconds.
    """
    last_revision, seen_s, failing_s, done = 0, 0.0, float("inf"), "read"
    while True:
        try:
            done = "read"
            if await is_seeded(bucket):
                return
            revision, held = await _look(bucket)
            if held and revision != last_revision:
                last_revision, seen_s = revision, time.monotonic()
            if not held or time.monotonic() - seen_s > LEASE_S:
                done = "written"
                write = partial(_write, bucket, table, rows, attributes, timing.insert_patience_s)
                await _seed_while_held(_Lease(bucket, owner, timing.renew_s), write, revision)
                return
            failing_s = float("inf")
        except LeaseLostError:
            failing_s = float("inf")
            log.info("another task is seeding")
        except (nats.errors.Error, APIError) as error:
            failing_s = min(failing_s, time.monotonic())
            if time.monotonic() - failing_s > timing.bucket_patience_s:
                raise explain(f"bucket {BUCKET}", error, done=done) from None
            _failing.warning(done, problem=f"cannot be {done}", error=str(error))
            seen_s = time.monotonic()  # no task could renew its lease meanwhile
        await asyncio.sleep(POLL_S * random.uniform(0.5, 1.0))


async def is_seeded(bucket: KeyValue) -> bool:
    """Return whether the seed flag is set. Raise NATS's error if the bucket cannot be read."""
    try:
        return (await bucket.get(SEED_KEY)).value == SEED_DONE
    except KeyNotFoundError:
        return False


async def _look(bucket: KeyValue) -> tuple[int, bool]:
    """Return the lease's revision (0 if there never was one), and whether it is held."""
    try:
        return (await bucket.get(SEED_LEASE_KEY)).revision or 0, True
    except KeyNotFoundError as error:
        return (error.entry.revision if error.entry else 0) or 0, False


async def _seed_while_held(lease: _Lease, write: Callable[[], Coroutine[Any, Any, None]], revision: int) -> None:
    await lease.take(revision)
    seeding = asyncio.create_task(write(), name="seed")
    renewing = asyncio.create_task(lease.keep(), name="seed-lease")
    try:
        await asyncio.wait({seeding, renewing}, return_when=asyncio.FIRST_COMPLETED)
        await (seeding if seeding.done() else renewing)
    finally:
        await cancel(seeding, renewing)
        await lease.release()


class _Lease:
    def __init__(self, bucket: KeyValue, owner: str, renew_s: float) -> None:
        self._bucket = bucket
        self._owner = owner.encode()
        self._renew_s = renew_s
        self._revision = 0

    async def take(self, revision: int) -> None:
        """Take or renew the lease. Raise `LeaseLostError` if it is no longer at `revision`."""
        try:
            self._revision = await self._bucket.update(SEED_LEASE_KEY, self._owner, last=revision)
        except KeyWrongLastSequenceError:
            raise LeaseLostError from None

    async def keep(self) -> None:
        """Renew the lease for ever. Raise `LeaseLostError` if another task took it over."""
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                await self.take(self._revision)
            except (nats.errors.Error, APIError) as error:
                _unrenewed.warning(type(error).__name__, error=str(error))

    async def release(self) -> None:
        try:
            await self._bucket.delete(SEED_LEASE_KEY, last=self._revision)
        except (nats.errors.Error, APIError) as error:  # it expires by itself
            log.debug("seeding lease not released", error=str(error))


async def _write(bucket: KeyValue, table: Table, rows: int, attributes: Attributes, patience_s: float) -> None:
    if await is_seeded(bucket):
        return
    started = time.monotonic()
    log.info("seeding", rows=rows, table=table.name)
    ids = iter(range(1, rows + 1))
    written = 0

    async def insert_some() -> None:
        nonlocal written
        for number in ids:
            row = make_row(str(number), random.choice(BALANCES), None, attributes)
            put = await _insert(table, row, patience_s)
            written += put

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENT_INSERTS):
                group.create_task(insert_some())
    except ExceptionGroup as errors:
        first = errors.exceptions[0]
        remedy = "see that this task may write to it"
        if isinstance(first, TableUnavailableError):
            remedy = table.explain(first).remedy
        raise ServiceError(f"table {table.name} cannot be seeded ({reason(first)})", remedy) from None
    await bucket.put(SEED_KEY, SEED_DONE)
    seconds = round(time.monotonic() - started, 3)
    log.info("seeded", written=written, already_there=rows - written, seconds=seconds)


async def _insert(table: Table, row: Row, patience_s: float) -> bool:
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(TableUnavailableError),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        stop=stop_after_delay(patience_s),
        reraise=True,
    ):
        with attempt:
            return await table.insert(row)
    raise AssertionError("unreachable: the last attempt re-raises")
