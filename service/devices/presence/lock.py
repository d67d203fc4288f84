"""A lock among the role's processes: a key of the bucket with a TTL, which its holder renews.

| event | the key |
| --- | --- |
| it is free | written by compare-and-set; the server deletes it after `TTL_S` |
| held | written again every `RENEW_S` |
| released | deleted, so that the next process need not wait |

A holder that cannot renew gives up before the server deletes the key: two never hold it, provided that their clocks run
at the same speed. After a holder died, another process holds it within `TTL_S` + `LOOK_S` and the server's delay.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Final

import nats.errors
import orjson
import structlog

from service.contracts import devices as contract
from service.nats.client import NatsClient
from service.runtime.cancel import cancel

log: Final = structlog.get_logger("service.devices")

TTL_S: Final = 10
RENEW_S: Final = 3.0
LOOK_S: Final = 2.0
ANSWER_S: Final = 2.0
MARGIN_S: Final = 1.0
"""The holder gives up this many seconds before its key expires."""
_NO_MESSAGE: Final = 10037


class Lock:
    """Runs work in one process at a time."""

    def __init__(self, nc: NatsClient, key: str) -> None:
        self._nc = nc
        self._key = key
        self._subject = f"{contract.KEY_PREFIX}{key}"
        self._owner = secrets.token_hex(8).encode()
        self._revision = 0
        self._until_s = 0.0
        """When the key expires, on the loop's clock."""
        self._loop = asyncio.get_running_loop()
        self.held = False

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` whenever this process has the lock; cancel it when the lock is lost. Return when `work` does."""
        while True:
            if await self._take():
                self.held = True
                log.info("holds", lock=self._key)
                try:
                    if await self._work(work):
                        return
                finally:
                    self.held = False
                    await self._release()
                log.warning("lost", lock=self._key)
            await asyncio.sleep(LOOK_S)

    async def _work(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Return True when the work has ended, False when the lock was lost."""

        async def run() -> None:
            await work()

        working, renewing = asyncio.create_task(run(), name=self._key), asyncio.create_task(self._keep(), name="renew")
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
                return True
            return False
        finally:
            await cancel(working, renewing)

    async def _keep(self) -> None:
        """Renew; return when the lock is lost."""
        while self._loop.time() + MARGIN_S < self._until_s:
            await asyncio.sleep(min(RENEW_S, max(0.0, self._until_s - MARGIN_S - self._loop.time())))
            left_s = self._until_s - MARGIN_S - self._loop.time()
            if left_s <= 0 or await self._write(self._revision, min(ANSWER_S, left_s)) is False:
                return

    async def _take(self) -> bool:
        """Take the lock if it is free; return whether it is held now."""
        revision = await self._free()
        return revision is not None and bool(await self._write(revision))

    async def _free(self) -> int | None:
        """Return the revision at which it is free; None if it is held, or unknown."""
        asked = orjson.dumps({"last_by_subj": self._subject})
        try:
            reply = await self._nc.request(f"$JS.API.STREAM.MSG.GET.{contract.BUCKET_STREAM}", asked, timeout=ANSWER_S)
            answer = orjson.loads(reply.data)
        except (nats.errors.Error, ValueError):
            return None
        if error := answer.get("error"):
            return 0 if error.get("err_code") == _NO_MESSAGE else None
        message = answer["message"]
        # A key that expired or was deleted leaves a marker, which has no value.
        owner = b64decode(message.get("data", ""))
        return int(message["seq"]) if owner in {b"", self._owner} else None

    async def _write(self, revision: int, timeout_s: float = ANSWER_S) -> bool | None:
        """Take or renew it; False if another process has it, None if that is unknown."""
        began_s = self._loop.time()
        headers = {"Nats-TTL": str(TTL_S), "Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            reply = await self._nc.request(self._subject, self._owner, timeout=timeout_s, headers=headers)
            answer = orjson.loads(reply.data)
        except (nats.errors.Error, ValueError):
            return None
        if "error" in answer:
            return False
        self._revision, self._until_s = int(answer["seq"]), began_s + TTL_S
        return True

    async def _release(self) -> None:
        headers = {"KV-Operation": "DEL", "Nats-Expected-Last-Subject-Sequence": str(self._revision)}
        try:
            await self._nc.request(self._subject, b"", timeout=ANSWER_S, headers=headers)
        except nats.errors.Error as error:  # it expires by itself
            log.debug("not released", lock=self._key, error=str(error))
