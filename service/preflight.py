"""What must be there before the first request: stream, bucket, table, and the permission to use them."""

from __future__ import annotations

from typing import Final

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from service.contract import BUCKET, EVENT_PREFIX, STREAM, STREAM_SUBJECTS
from service.errors import ServiceFault
from service.table import Table

log: Final = structlog.get_logger("service.preflight")

PROVISION: Final = "make it with `python -m control_plane create`"


async def check(jetstream: JetStreamContext, table: Table) -> KeyValue:
    """The bucket, once stream, bucket and table were seen to be there.

    Raises `ServiceFault` that names what is missing and the command that makes it.
    """
    await check_stream(jetstream)
    bucket = await open_bucket(jetstream)
    await table.check()
    return bucket


async def check_stream(jetstream: JetStreamContext) -> None:
    """Raise `ServiceFault` unless the stream is there and takes the events."""
    try:
        info = await jetstream.stream_info(STREAM)
    except NotFoundError:
        raise ServiceFault(f"stream {STREAM} does not exist", PROVISION) from None
    except (nats.errors.Error, APIError) as error:
        raise fault(f"stream {STREAM}", error) from None
    if not set(STREAM_SUBJECTS) <= set(info.config.subjects or ()):
        problem = f"stream {STREAM} does not take {EVENT_PREFIX}>"
        raise ServiceFault(problem, "put its subjects right with `python -m control_plane create`")


async def open_bucket(jetstream: JetStreamContext) -> KeyValue:
    """Raises `ServiceFault` when it is not there."""
    try:
        return await jetstream.key_value(BUCKET)
    except (BucketNotFoundError, NotFoundError):
        raise ServiceFault(f"KV bucket {BUCKET} does not exist", PROVISION) from None
    except (nats.errors.Error, APIError) as error:
        raise fault(f"KV bucket {BUCKET}", error) from None


def fault(name: str, error: Exception) -> ServiceFault:
    """What JetStream's error about something of that name means to an operator."""
    if isinstance(error, nats.errors.NoRespondersError | ServiceUnavailableError):
        return ServiceFault(
            f"{name}: JetStream is not available to this account",
            "enable JetStream for it, or use the account's own credentials",
        )
    if isinstance(error, nats.errors.TimeoutError):
        return ServiceFault(
            f"{name} cannot be read: no answer (a user without permission gets none)",
            "use the credentials of user `service`, or see the permissions violation logged above",
        )
    return ServiceFault(f"{name} cannot be read: {error}", "see the server's log")
