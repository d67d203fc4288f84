"""Check that streams and buckets exist, and explain JetStream's errors to an operator."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from service.nats.fit import bucket_unfit, stream_unfit
from service.runtime.errors import NoAnswer, ServiceError

PROVISION: Final = "make it with `python -m control_plane create`"
CORRECT: Final = "correct it with `python -m control_plane create`"
LETTER_BYTES: Final = 1024
"""A stream must accept messages of at least this size."""
NO_LEADER: Final = 10_008
"""`JSClusterNotAvailErr` of https://github.com/nats-io/nats-server/blob/main/server/errors.json: it is temporary."""
VALUE_BYTES: Final = 128
"""Largest value that we write to a bucket, in bytes, with its headers."""


async def check_stream(
    jetstream: JetStreamContext,
    name: str,
    subjects: Sequence[str],
    user: str = "service",
    *,
    size: int = LETTER_BYTES,
    requests: Sequence[str] = (),
) -> Mapping[str, Any]:
    """Return the stream's configuration, as the server sends it.

    Raise `ServiceError` unless it exists and, if `subjects` are given, stores and acknowledges messages of up to
    `size` bytes on them and takes none of `requests`.
    """
    try:
        config = await _config(jetstream, name)
    except NotFoundError:
        raise ServiceError(f"stream {name} does not exist", PROVISION) from None
    except (nats.errors.Error, APIError) as error:
        raise explain(f"stream {name}", error, user) from None
    if subjects and (unfit := stream_unfit(config, subjects, size, requests)):
        raise ServiceError(f"stream {name} {unfit}", CORRECT)
    return config


async def consumer(jetstream: JetStreamContext, stream: str, name: str) -> tuple[ConsumerInfo, Mapping[str, Any]]:
    """Return a consumer's state, and its configuration as the server sends it: nats-py drops fields unknown to it.

    Raise `nats.errors.Error` or `APIError` if it cannot be read.
    """
    answer = await _ask(jetstream, f"CONSUMER.INFO.{stream}.{name}")
    return ConsumerInfo.from_response(copy.deepcopy(answer)), answer["config"]


def backlog(info: ConsumerInfo) -> int:
    """Count the messages that wait and those delivered but not acknowledged, even to a client that died."""
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def open_bucket(jetstream: JetStreamContext, name: str, keys: Sequence[str]) -> KeyValue:
    """Open a bucket. Raise `ServiceError` if it does not exist or its `keys` cannot be overwritten without limit."""
    try:
        config = await _config(jetstream, f"KV_{name}")
        if unfit := bucket_unfit(config, [f"$KV.{name}.{key}" for key in keys], VALUE_BYTES):
            raise ServiceError(f"KV bucket {name} {unfit}", CORRECT)
        return await jetstream.key_value(name)
    except (BucketNotFoundError, NotFoundError):
        raise ServiceError(f"KV bucket {name} does not exist", PROVISION) from None
    except (nats.errors.Error, APIError) as error:
        raise explain(f"KV bucket {name}", error) from None


async def _config(jetstream: JetStreamContext, stream: str) -> Mapping[str, Any]:
    config: Mapping[str, Any] = (await _ask(jetstream, f"STREAM.INFO.{stream}"))["config"]
    return config


async def _ask(jetstream: JetStreamContext, what: str) -> Any:
    return await jetstream._api_request(f"{jetstream._prefix}.{what}", timeout=jetstream._timeout)


def explain(name: str, error: Exception, user: str = "service", done: str = "read") -> ServiceError:
    """Return JetStream's error about `name` as one that tells an operator what to do.

    `user` is the NATS user of the role; `done` is what was tried, as a participle ("read").
    """
    if isinstance(error, APIError) and error.err_code == NO_LEADER:
        problem = f"{name} cannot be {done}: the cluster has no leader"
        return NoAnswer(problem, "see that most of its servers run and reach each other")
    if isinstance(error, nats.errors.NoRespondersError | ServiceUnavailableError):
        return ServiceError(
            f"{name}: JetStream is not available to this account",
            "enable JetStream for it, use the account's own credentials, or, where it is in another JetStream domain "
            "(a leaf below a hub), use a NATS_URL of that domain",
        )
    if isinstance(error, nats.errors.TimeoutError):
        return NoAnswer(
            f"{name} cannot be {done}: no answer (a user without permission gets none)",
            f"use the credentials of user `{user}`, or see the permissions violation logged above",
        )
    return ServiceError(f"{name} cannot be {done}: {error}", "see the server's log")
