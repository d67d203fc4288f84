"""Streams and buckets that must be there, and what JetStream's errors mean to an operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, StreamConfig
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from service.runtime.errors import ServiceError

PROVISION: Final = "make it with `python -m control_plane create`"


async def check_stream(
    jetstream: JetStreamContext, name: str, subjects: Sequence[str], user: str = "service"
) -> StreamConfig:
    """The stream's configuration. Raises `ServiceError` unless it is there and takes the subjects."""
    try:
        info = await jetstream.stream_info(name)
    except NotFoundError:
        raise ServiceError(f"stream {name} does not exist", PROVISION) from None
    except (nats.errors.Error, APIError) as error:
        raise explain(f"stream {name}", error, user) from None
    if not set(subjects) <= set(info.config.subjects or ()):
        problem = f"stream {name} does not take {', '.join(subjects)}"
        raise ServiceError(problem, "correct its subjects with `python -m control_plane create`")
    return info.config


def backlog(info: ConsumerInfo) -> int:
    """Messages that wait, and those that anyone holds, dead or alive."""
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def open_bucket(jetstream: JetStreamContext, name: str) -> KeyValue:
    """Raises `ServiceError` when the bucket is not there."""
    try:
        return await jetstream.key_value(name)
    except (BucketNotFoundError, NotFoundError):
        raise ServiceError(f"KV bucket {name} does not exist", PROVISION) from None
    except (nats.errors.Error, APIError) as error:
        raise explain(f"KV bucket {name}", error) from None


def explain(name: str, error: Exception, user: str = "service") -> ServiceError:
    """What JetStream's error about `name` means to an operator. `user` is the one whose credentials the role has."""
    if isinstance(error, nats.errors.NoRespondersError | ServiceUnavailableError):
        return ServiceError(
            f"{name}: JetStream is not available to this account",
            "enable JetStream for it, or use the account's own credentials",
        )
    if isinstance(error, nats.errors.TimeoutError):
        return ServiceError(
            f"{name} cannot be read: no answer (a user without permission gets none)",
            f"use the credentials of user `{user}`, or see the permissions violation logged above",
        )
    return ServiceError(f"{name} cannot be read: {error}", "see the server's log")
