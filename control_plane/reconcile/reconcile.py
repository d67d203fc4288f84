"""Plan the changes from the actual to the desired state. `status` shows the plan, `create` applies it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from control_plane import settings
from control_plane.errors import ProvisioningError, UsageError
from control_plane.files import Files
from control_plane.parts import ARCHIVE, BACKLOG_BYTES, BALANCES, CONNECTED_DEVICES, DEVICES, PARTS, for_devices
from control_plane.plan import Do, Plan, Step, nothing
from control_plane.provider import AccountSummary, Actual, Provider
from control_plane.reconcile.credentials import credential_steps
from control_plane.resources import Account, User
from control_plane.settings import ObjectSettings, differences, limits_differences
from service.contracts.devices import MQTT_STREAM

NO_DEVICES: Final = "devices need your own nats-server (--server): Synadia Cloud documents no MQTT endpoint"
SERVERS_OWN: Final = "$MQTT_"
"""Name prefix of the streams that nats-server creates for itself."""


async def plan(provider: Provider, name: str, wanted: Account, files: Files) -> Plan:
    """Compare; change nothing.

    Raises `ProvisioningError` if an account of that name exists but this program did not create it.
    """
    return await compare(provider, name, await find(provider, name), wanted, files)


async def compare(
    provider: Provider,
    name: str,
    account: AccountSummary | None,
    wanted: Account,
    files: Files,
    secret: str | None = None,
    stream_bytes: int | None = None,
    devices: int | None = None,
) -> Plan:
    """Return the plan for an existing or a new account. A part that was provisioned once stays wanted.

    `stream_bytes` is the size of the archived stream; without it, a larger existing size is kept. `devices` is how many
    may be connected; without it, the number stays. Raises `UsageError` if they are given without their parts, or if the
    provider takes no devices.

    `secret`: initials, if the deployment's secret must hold the service's credentials too.
    """
    if _has_devices(wanted) and not provider.takes_devices:
        raise UsageError(NO_DEVICES)
    actual = await provider.actual(account.id) if account else None
    if actual:
        names = {user.name for user in wanted.users}
        parts = [part for part in PARTS if provider.takes_devices or part != DEVICES]
        wanted = wanted.plus(part for part in parts if part.name in actual.users and part.name not in names)
    wanted = _sized(wanted, actual, stream_bytes)
    wanted = _with_devices(wanted, actual, devices)
    wanted, remarks = await _as_allowed(provider, wanted)
    steps = [_account_step(provider, name, account)]
    if actual:
        drift = limits_differences(settings.limits_settings(wanted.limits), actual.limits)
        put_limits = partial(provider.put_limits, limits=wanted.limits)
        steps.append(Step("limits", "change" if drift else "keep", put_limits, drift))
        remarks = (*remarks, *_not_compared(wanted, actual), *_rotating(wanted, actual))
    steps += _resource_steps(provider, wanted, actual)
    steps += await credential_steps(provider, account, actual, wanted, files, secret)
    remarks = (*remarks, *_still_out(steps, actual))
    return Plan(account.name if account else name, account.id if account else None, wanted, steps, remarks)


async def apply(provider: Provider, planned: Plan) -> AsyncIterator[Step]:
    """Make the changes; yield each step once it is done. After a failure, the next run does the rest."""
    account = planned.account
    if account is None:
        account = await provider.create_account(planned.name, planned.wanted)
        yield planned.steps[0]
    for step in planned.changes:
        if planned.account is None and step is planned.steps[0]:
            continue
        await step.do(account)
        yield step


async def find(provider: Provider, name: str, *, adopt: bool = False) -> AccountSummary | None:
    """Return our account of that name, preferring an exact match to one in another case; None if it does not exist.

    Raises `ProvisioningError` if it is the system account, or was created elsewhere and `adopt` is false.
    """
    accounts = await provider.accounts()
    named = [account for account in accounts if account.name == name]
    named = named or [account for account in accounts if account.name.upper() == name.upper()]
    if not named:
        return None
    if len(named) > 1:
        names = ", ".join(account.id for account in named)
        raise ProvisioningError(f"there are {len(named)} accounts named {name}: {names}; delete the extra ones by hand")
    (account,) = named
    if account.is_system:
        raise ProvisioningError(
            f"account {account.name} is the system account, and is left alone; choose other initials"
        )
    if not account.is_ours and not adopt:
        remedy = "choose other initials, or take it over with `create --adopt`"
        raise ProvisioningError(f"account {account.name} is not made by this program, and is left alone; {remedy}")
    return account


async def deletions(provider: Provider, account: AccountSummary, files: Files) -> Sequence[Step]:
    """Return the steps that delete an account, ordered so that a later run can finish an interrupted one."""
    actual = await provider.actual(account.id)

    async def remove_files(_: str) -> None:
        files.remove(actual.key)

    def removal(kind: str, name: str, remove: Any) -> Step:
        return Step(f"{kind} {name}", "change", partial(remove, name=name))

    return [
        *(removal("user", name, provider.remove_user) for name in actual.users),
        *(removal("stream", name, provider.remove_stream) for name in actual.streams),
        *(removal("bucket", name, provider.remove_bucket) for name in actual.buckets),
        Step(f"credentials in {files.folder}", "change", remove_files),
        Step(f"account {account.name}", "change", provider.remove_account),
    ]


def _sized(wanted: Account, actual: Actual | None, stream_bytes: int | None) -> Account:
    if not any(user.name == ARCHIVE.name for user in wanted.users):
        if stream_bytes:
            raise UsageError("--stream-size is the archived stream's; give --with archive too")
        return wanted
    there = actual.streams.get(BALANCES.name, {}).get("max_bytes", 0) if actual else 0
    (declared,) = (stream.max_bytes for stream in wanted.streams if stream.name == BALANCES.name)
    return wanted.sized(BALANCES.name, stream_bytes or max(declared, there))


def _has_devices(wanted: Account) -> bool:
    return any(user.devices for user in wanted.users)


def _with_devices(wanted: Account, actual: Actual | None, number: int | None) -> Account:
    if not _has_devices(wanted):
        if number:
            raise UsageError("--devices is how many may be connected; give --with devices too")
        return wanted
    return for_devices(wanted, number or _devices_there(wanted, actual) or CONNECTED_DEVICES)


def _devices_there(wanted: Account, actual: Actual | None) -> int:
    """Return how many devices the account was sized for, from its connections and its backlog; 0 if for none."""
    if actual is None or DEVICES.name not in actual.users:
        return 0
    others = wanted.limits.connections - CONNECTED_DEVICES
    connections: int = actual.limits.get("conn", 0)
    backlog: int = actual.streams.get(MQTT_STREAM, {}).get("max_bytes", 0)
    return max(0, connections - others, backlog // BACKLOG_BYTES)


def _account_step(provider: Provider, name: str, account: AccountSummary | None) -> Step:
    """Return the account's step. `apply` creates the account itself, because it needs the id."""
    if account is None:
        return Step(f"account {name}", "create", nothing)
    if account.is_ours:
        return Step(f"account {account.name}", "keep", nothing)
    drift = (settings.Difference("made by", "this program", "another program"),)
    return Step(f"account {account.name}", "change", provider.adopt, drift)


def _resource_steps(provider: Provider, wanted: Account, actual: Actual | None) -> list[Step]:
    steps = [_user_step(provider, user, actual) for user in wanted.users if not user.devices]
    for stream in wanted.streams:
        there = actual.streams.get(stream.name) if actual else None
        put: Do = partial(provider.put_stream, stream=stream)
        steps.append(_step("stream", stream.name, *settings.ours(stream, there), put))
    for bucket in wanted.buckets:
        there = actual.buckets.get(bucket.name) if actual else None
        put = partial(provider.put_bucket, bucket=bucket)
        steps.append(_step("bucket", bucket.name, provider.bucket_settings(bucket), there, put))
    for consumer in wanted.consumers:
        there = actual.consumers.get((consumer.stream, consumer.name)) if actual else None
        put = partial(provider.put_consumer, consumer=consumer)
        name = f"{consumer.name} of {consumer.stream}"
        steps.append(_step("consumer", name, settings.consumer_settings(consumer), there, put))
    # Last: anything a device publishes before the consumers exist is acknowledged and lost.
    return steps + [_user_step(provider, user, actual) for user in wanted.users if user.devices]


def _user_step(provider: Provider, user: User, actual: Actual | None) -> Step:
    there = actual.users.get(user.name) if actual else None
    return _step("user", user.name, settings.user_settings(user), there, partial(provider.put_user, user=user))


def _step(kind: str, name: str, wanted: ObjectSettings, actual: ObjectSettings | None, do: Do) -> Step:
    if actual is None:
        return Step(f"{kind} {name}", "create", do)
    drift = differences(kind, wanted, actual)
    return Step(f"{kind} {name}", "change" if drift else "keep", do, drift)


def _not_compared(wanted: Account, actual: Actual) -> tuple[str, ...]:
    """Return a remark on undeclared resources and limits: they are left alone."""
    streams = {stream.name for stream in wanted.streams}
    strange = [
        *(f"user {name}" for name in actual.users if name not in {user.name for user in wanted.users}),
        *(f"stream {name}" for name in actual.streams if name not in streams and not name.startswith(SERVERS_OWN)),
        *(f"bucket {name}" for name in actual.buckets if name not in {bucket.name for bucket in wanted.buckets}),
    ]
    limits = settings.other_limits(settings.limits_settings(wanted.limits), actual.limits)
    strange += [f"limit {name} = {value}" for name, value in limits.items()]
    return (f"not declared, not compared and left alone: {', '.join(strange)}",) if strange else ()


def _still_out(steps: Sequence[Step], actual: Actual | None) -> tuple[str, ...]:
    """Return a remark per changed user whose JWT carries its permissions: copies of it keep the old ones."""
    carried = {name for name, identity in actual.identities.items() if not identity.issuer} if actual else set()
    changed = [step.resource.removeprefix("user ") for step in steps if step.action == "change"]
    return tuple(
        f"copies of {name}.creds that are elsewhere keep their former permissions until `rotate --user {name}`"
        for name in changed
        if name in carried
    )


def _rotating(wanted: Account, actual: Actual) -> tuple[str, ...]:
    """Return a remark if devices have JWTs of two signing keys: only `rotate` ends that rotation."""
    names = [user.name for user in wanted.users if user.devices and user.name in actual.rotating]
    return tuple(f"the former signing key of devices is valid too, until `rotate --user {name}`" for name in names)


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
