"""From the actual to the desired state: one plan, shown by `status`, applied by `create`; `delete` removes it all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

from control_plane.desired import PARTS, Account, User
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.provider import AccountSummary, Actual, Provider

Action = Literal["keep", "create", "change"]
Do = Callable[[str], Awaitable[None]]
"""Given the account's id."""


@dataclass(frozen=True)
class Difference:
    """A setting that has drifted."""

    field: str
    wanted: Any
    actual: Any


@dataclass(frozen=True)
class Step:
    resource: str
    action: Action
    do: Do
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every resource, in the order in which they are made, and the action for each."""

    name: str
    account: str | None
    steps: Sequence[Step]
    remarks: tuple[str, ...] = ()

    @property
    def changes(self) -> Sequence[Step]:
        return [step for step in self.steps if step.action != "keep"]


async def plan(provider: Provider, name: str, wanted: Account, files: Files) -> Plan:
    """Compare; touch nothing. A part (`desired.PARTS`) that was made once is wanted from then on.

    Raises `ProvisioningError` when an account of that name is there that this program did not make.
    """
    account = await find(provider, name)
    actual = await provider.actual(account.id) if account else None
    if actual:
        names = {user.name for user in wanted.users}
        wanted = wanted.plus(part for part in PARTS if part.name in actual.users and part.name not in names)
    wanted, remarks = await _as_allowed(provider, wanted)
    steps = [
        Step(f"account {name}", "create" if account is None else "keep", _nothing),
        _step("limits", wanted.limits, actual and actual.limits, partial(provider.put_limits, limits=wanted.limits)),
    ]
    for user in wanted.users:
        there = actual.users.get(user.name) if actual else None
        steps.append(_step(f"user {user.name}", user, there, partial(provider.put_user, user=user)))
    for stream in wanted.streams:
        found = actual and actual.streams.get(stream.name)
        steps.append(_step(f"stream {stream.name}", stream, found, partial(provider.put_stream, stream=stream)))
    for consumer in wanted.consumers:
        found_consumer = actual and actual.consumers.get((consumer.stream, consumer.name))
        put = partial(provider.put_consumer, consumer=consumer)
        steps.append(_step(f"consumer {consumer.name} of {consumer.stream}", consumer, found_consumer, put))
    for bucket in wanted.buckets:
        found_bucket = actual and actual.buckets.get(bucket.name)
        put_bucket = partial(provider.put_bucket, bucket=bucket)
        steps.append(_step(f"bucket {bucket.name}", bucket, found_bucket, put_bucket))
    steps += [await _creds_step(provider, account, actual, user.name, files) for user in wanted.users]
    if provider.has_gateway:
        steps += [_token_step(provider, actual, user, files) for user in wanted.users if user.gateway]
    return Plan(name, account.id if account else None, steps, remarks)


async def apply(provider: Provider, planned: Plan, wanted: Account) -> AsyncIterator[Step]:
    """Make the changes, yielding each step when it is done. A failure leaves the rest for the next run."""
    account = planned.account
    if account is None:
        account = await provider.create_account(planned.name, wanted.limits)
        yield planned.steps[0]
    for step in planned.changes:
        if step is planned.steps[0] or (planned.account is None and step.resource == "limits"):
            continue  # made with the account
        await step.do(account)
        yield step


async def find(provider: Provider, name: str) -> AccountSummary | None:
    """Our account of that name.

    Raises `ProvisioningError` when it is the system account, or somebody else's.
    """
    named = [account for account in await provider.accounts() if account.name == name]
    if not named:
        return None
    if len(named) > 1:
        raise ProvisioningError(
            f"there are {len(named)} accounts named {name}; delete those that are not wanted by hand"
        )
    (account,) = named
    if account.is_system or not account.is_ours:
        kind = "the system account" if account.is_system else "not made by this program"
        raise ProvisioningError(f"account {name} is {kind}, and is left alone; choose other initials")
    return account


async def deletions(provider: Provider, account: AccountSummary, files: Files) -> Sequence[Step]:
    """The steps that delete an account, in an order that leaves nothing behind when it stops half-way."""
    actual = await provider.actual(account.id)

    async def remove_files(_: str) -> None:
        files.remove(*actual.users)

    steps = [
        Step(f"user {name}", "change", partial(provider.remove_user, name=name))
        for name in actual.users
    ]  # fmt: skip
    steps += [Step(f"stream {name}", "change", partial(provider.remove_stream, name=name)) for name in actual.streams]
    steps += [Step(f"bucket {name}", "change", partial(provider.remove_bucket, name=name)) for name in actual.buckets]
    steps.append(Step(f"credentials in {files.folder}", "change", remove_files))
    steps.append(Step(f"account {account.name}", "change", provider.remove_account))
    return steps


async def _as_allowed(provider: Provider, wanted: Account) -> tuple[Account, tuple[str, ...]]:
    remarks = []
    if any(stream.allow_batched for stream in wanted.streams) and not await provider.takes_batches():
        remarks.append("this server takes no batches (nats-server 2.14 does); events are acknowledged one by one")
        wanted = replace(wanted, streams=tuple(replace(stream, allow_batched=False) for stream in wanted.streams))
    most = await provider.max_replicas()
    asked = max([stream.replicas for stream in wanted.streams] + [bucket.replicas for bucket in wanted.buckets])
    if most >= asked:
        return wanted, tuple(remarks)
    remarks.append(f"this server allows {most} of the wanted {asked} replicas; losing a server loses data")
    streams = tuple(replace(stream, replicas=min(most, stream.replicas)) for stream in wanted.streams)
    buckets = tuple(replace(bucket, replicas=min(most, bucket.replicas)) for bucket in wanted.buckets)
    return replace(wanted, streams=streams, buckets=buckets), tuple(remarks)


async def _creds_step(
    provider: Provider, account: AccountSummary | None, actual: Actual | None, user: str, files: Files
) -> Step:
    async def write(id_: str) -> None:
        files.write_creds(user, await provider.creds(id_, user))

    resource = f"credentials {files.creds_path(user)}"
    text = files.creds(user)
    if text is None:
        return Step(resource, "create", write)
    current = account and actual and user in actual.users and await provider.is_current(account.id, user, text)
    if current:
        return Step(resource, "keep", write)
    return Step(resource, "change", write, (Difference("key", "the user's", "another one"),))


def _token_step(provider: Provider, actual: Actual | None, user: User, files: Files) -> Step:
    async def write(id_: str) -> None:
        files.write_token(user.name, await provider.gateway_token(id_, user.name))

    has_one = actual is not None and user.name in actual.users and files.token(user.name) is not None
    return Step(f"gateway token {files.token_path(user.name)}", "keep" if has_one else "create", write)


def _step(resource: str, wanted: Any, actual: Any, do: Do) -> Step:
    if actual is None:
        return Step(resource, "create", do)
    differences = tuple(
        Difference(field.name, getattr(wanted, field.name), getattr(actual, field.name))
        for field in fields(wanted)
        if field.compare and getattr(wanted, field.name) != getattr(actual, field.name)
    )
    return Step(resource, "change" if differences else "keep", do, differences)


async def _nothing(_: str) -> None:
    """An account is made by `apply`, which needs its id."""
