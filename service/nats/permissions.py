"""Ask the server what a NATS user may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import nats.errors
import orjson
from nats.aio.client import Client

from service.nats.subjects import covers
from service.runtime.errors import ServiceError
from service.runtime.role import Skipped

USER_INFO: Final = "$SYS.REQ.USER.INFO"
"""https://docs.nats.io/running-a-nats-service/configuration/sys_accounts#user-services"""
USER_INFO_S: Final = 2.0


async def told(nc: Client) -> Mapping[str, Any]:
    """Return the permissions of `nc`; a missing entry allows all. Raise `Skipped` if the server does not tell."""
    try:
        reply = await nc.request(USER_INFO, timeout=USER_INFO_S)
        given = orjson.loads(reply.data)["data"].get("permissions") or {}
        are_rules = all(_are_rules(given.get(kind)) for kind in ("publish", "subscribe"))
    except (nats.errors.Error, AttributeError, LookupError, TypeError, ValueError):
        are_rules = False
    if not are_rules:
        raise Skipped(f"the server does not say ({USER_INFO}); the checks below cover some of them")
    return dict(given)


async def look(
    nc: Client, user: str, publish: Sequence[str], subscribe: Sequence[str], *, answers: bool = True
) -> Mapping[str, Any]:
    """Return the permissions of `nc`. Raise `ServiceError` that names each subject it may not use.

    Raise `Skipped` if the server does not report them. A subject may be `SUBJECT QUEUE`. `answers`: the role answers
    requests, so it must be allowed to reply.
    """
    given = await told(nc)
    denied = [f"publish to {subject}" for subject in publish if not allows(given.get("publish"), subject)]
    denied += [f"subscribe to {subject}" for subject in subscribe if not allows(given.get("subscribe"), subject)]
    if answers and not given.get("responses") and not allows(given.get("publish"), "_INBOX.any"):
        denied.append("reply to _INBOX.>")
    if denied:
        remedy = f"use the credentials of user `{user}` as `python -m control_plane create` makes them now"
        raise ServiceError(f"no permission to {', '.join(denied)}", remedy)
    return given


def _are_rules(rules: Any) -> bool:
    """Return whether `allows` can read the rules: none, or lists of subjects."""
    if not rules:
        return True
    if not isinstance(rules, dict):
        return False
    lists = [rules.get(kind) or [] for kind in ("allow", "deny")]
    return all(
        isinstance(subjects, list) and all(isinstance(subject, str) for subject in subjects) for subjects in lists
    )


def allows(rules: Mapping[str, Sequence[str]] | None, subject: str) -> bool:
    """Return whether a NATS user with these rules may use `subject`, which may be `SUBJECT QUEUE`."""
    if not rules:
        return True
    allow, deny = rules.get("allow") or (), rules.get("deny") or ()
    allowed = not allow or any(_matches(pattern, subject) for pattern in allow)
    return allowed and not any(_matches(pattern, subject) for pattern in deny)


def _matches(pattern: str, subject: str) -> bool:
    pattern, _, group = pattern.partition(" ")
    subject, _, asked = subject.partition(" ")
    if group and group != asked:
        return False
    return covers(pattern, subject)
