"""Synadia Cloud as a provider: https://cloud.synadia.com/api, the paths of its OpenAPI document under `core/beta`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from control_plane import claims
from control_plane.desired import TAG, Bucket, Consumer, Limits, Stream, User
from control_plane.errors import ProvisioningError
from control_plane.provider import AccountSummary, Actual
from control_plane.synadia_api import Api

SIGNING_GROUP: Final = "customer-balance"
NANOSECONDS: Final = 1_000_000_000
ROOT: Final = "/core/beta"
_JETSTREAM_LIMITS: Final = ("disk_storage", "mem_storage", "streams", "consumer")


@dataclass(frozen=True)
class System:
    """A NATS system of a team's."""

    id: str
    name: str
    tiers: tuple[str, ...]
    nodes: int | None

    @property
    def replicas(self) -> int:
        if self.tiers:
            return max(int(tier.removeprefix("R")) for tier in self.tiers)
        return min(5, self.nodes) if self.nodes else 3


async def find_system(api: Api, wanted: str | None) -> System:
    """The system of that id or name; the only one there is, when none is wanted.

    Raises `ProvisioningError` that lists the systems to choose from.
    """
    teams = await api.items(f"{ROOT}/teams")
    systems = [system for team in teams for system in await api.items(f"{ROOT}/teams/{team['id']}/systems")]
    chosen = [system for system in systems if wanted in {None, system["id"], system["name"]}]
    if len(chosen) != 1:
        there = ", ".join(f"{system['name']} ({system['id']})" for system in systems) or "none"
        problem = f"there is no system {wanted}" if wanted and not chosen else "which system is meant is not clear"
        raise ProvisioningError(f"{problem}; give --system one of: {there}")
    (system,) = chosen
    if not system["jetstream_enabled"]:
        raise ProvisioningError(f"system {system['name']} has no JetStream, which the stream and the bucket need")
    return System(system["id"], system["name"], tuple(system.get("jetstream_tiers") or ()), system.get("max_nodes"))


class Synadia:
    """The provider for one system."""

    has_gateway = True

    def __init__(self, api: Api, system: System) -> None:
        self._api = api
        self._system = system

    async def accounts(self) -> Sequence[AccountSummary]:
        return [
            AccountSummary(account["id"], account["name"], account["is_system_account"], TAG in _tags(account))
            for account in await self._api.items(f"{ROOT}/systems/{self._system.id}/accounts")
        ]

    async def actual(self, account: str) -> Actual:
        settings = (await self._api.get(f"{ROOT}/accounts/{account}")).get("jwt_settings") or {}
        users = await self._users(account)
        found = (await self._streams(account)).values()
        streams = [_stream(item["config"]) for item in found]
        consumers = [_consumer(item) for stream in found for item in await self._consumers(stream)]
        buckets = [_bucket(item["config"]) for item in (await self._buckets(account)).values()]
        return Actual(
            limits=self._limits_from(settings.get("limits") or {}),
            users={name: claims.user_from(name, user["jwt_settings"]) for name, user in users.items()},
            streams={stream.name: stream for stream in streams},
            buckets={bucket.name: bucket for bucket in buckets},
            consumers={(consumer.stream, consumer.name): consumer for consumer in consumers},
        )

    async def max_replicas(self) -> int:
        return self._system.replicas

    async def takes_batches(self) -> bool:
        return True  # its document has the setting

    async def create_account(self, name: str, limits: Limits) -> str:
        settings = {"limits": self._limits(limits), "tags": [TAG]}
        body = {"name": name, "jwt_settings": settings}
        account = await self._api.post(f"{ROOT}/systems/{self._system.id}/accounts", body)
        return str(account["id"])

    async def put_limits(self, account: str, limits: Limits) -> None:
        await self._api.patch(f"{ROOT}/accounts/{account}", {"jwt_settings": {"limits": self._limits(limits)}})

    async def remove_account(self, account: str) -> None:
        await self._api.delete(f"{ROOT}/accounts/{account}")

    async def put_user(self, account: str, user: User) -> None:
        settings = claims.permissions(user)
        there = (await self._users(account)).get(user.name)
        if there is None:
            group = await self._signing_group(account)
            body = {"name": user.name, "sk_group_id": group, "jwt_settings": settings}
            await self._api.post(f"{ROOT}/accounts/{account}/nats-users", body)
        else:
            cleared = {key: {"deny": [], **settings[key]} for key in ("pub", "sub")}
            changed = {"jwt_settings": {**cleared, "resp": settings.get("resp")}}
            await self._api.patch(f"{ROOT}/nats-users/{there['id']}", changed)

    async def remove_user(self, account: str, name: str) -> None:
        there = (await self._users(account)).get(name)
        if there:
            await self._api.delete(f"{ROOT}/nats-users/{there['id']}")

    async def put_stream(self, account: str, stream: Stream) -> None:
        there = (await self._streams(account)).get(stream.name)
        if there is None:
            await self._api.post(f"{ROOT}/accounts/{account}/jetstream/streams", _stream_config(stream))
        else:
            config = {**there["config"], **_stream_config(stream)}
            await self._api.patch(f"{ROOT}/jetstream/stream/{there['id']}", config)

    async def remove_stream(self, account: str, name: str) -> None:
        there = (await self._streams(account)).get(name)
        if there:
            await self._api.delete(f"{ROOT}/jetstream/stream/{there['id']}")

    async def put_consumer(self, account: str, consumer: Consumer) -> None:
        stream = (await self._streams(account)).get(consumer.stream)
        if stream is None:
            raise ProvisioningError(f"there is no stream {consumer.stream}; run create")
        there = [item for item in await self._consumers(stream) if item["name"] == consumer.name]
        settings = _consumer_settings(consumer)
        if there:
            await self._api.patch(f"{ROOT}/consumers/pull/{there[0]['id']}", settings)
            return
        config = {
            "durable_name": consumer.name,
            "name": consumer.name,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "replay_policy": "instant",
            **settings,
        }
        await self._api.post(f"{ROOT}/jetstream/stream/{stream['id']}/consumers/pull", config)

    async def put_bucket(self, account: str, bucket: Bucket) -> None:
        there = (await self._buckets(account)).get(bucket.name)
        settings = {"max_bytes": bucket.max_bytes, "num_replicas": bucket.replicas}
        if there is None:
            config = {"bucket": bucket.name, "storage": "file", "history": 1, **settings}
            await self._api.post(f"{ROOT}/accounts/{account}/jetstream/kv-buckets", config)
        else:
            await self._api.patch(f"{ROOT}/jetstream/kv-bucket/{there['id']}", {"config": settings})

    async def remove_bucket(self, account: str, name: str) -> None:
        there = (await self._buckets(account)).get(name)
        if there:
            await self._api.delete(f"{ROOT}/jetstream/kv-bucket/{there['id']}")

    async def creds(self, account: str, user: str) -> str:
        there = await self._user(account, user)
        return str(await self._api.post(f"{ROOT}/nats-users/{there['id']}/creds", repeatable=True))

    async def is_current(self, account: str, user: str, creds: str) -> bool:
        there = await self._user(account, user)
        try:
            return bool(claims.decode(claims.token_of(creds)).get("sub") == there["user_public_key"])
        except ValueError:
            return False

    async def rotate(self, account: str, user: str) -> str:
        """The old key is revoked first: if the rest fails, a second run gives new ones, and nobody holds the old."""
        await self.revoke(account, (await self._user(account, user))["user_public_key"])
        return await self.issue(account, user)

    async def issue(self, account: str, user: str) -> str:
        """A user's old key stays valid when it is rotated; revoking it is a call of its own."""
        there = await self._user(account, user)
        await self._api.post(f"{ROOT}/nats-users/{there['id']}/rotate")
        return await self.creds(account, user)

    async def revoke(self, account: str, key: str) -> None:
        await self._api.put(f"{ROOT}/accounts/{account}/nats-user-revocations/{key}", {"before": int(time.time())})

    async def gateway_token(self, account: str, user: str) -> str:
        there = await self._user(account, user)
        return str((await self._api.post(f"{ROOT}/nats-users/{there['id']}/http-gw-token"))["token"])

    async def _users(self, account: str) -> dict[str, dict[str, Any]]:
        return {user["name"]: user for user in await self._api.items(f"{ROOT}/accounts/{account}/nats-users")}

    async def _user(self, account: str, name: str) -> dict[str, Any]:
        there = (await self._users(account)).get(name)
        if there is None:
            raise ProvisioningError(f"there is no user {name}; run create")
        return there

    async def _streams(self, account: str) -> dict[str, dict[str, Any]]:
        items = await self._api.items(f"{ROOT}/accounts/{account}/jetstream/streams")
        return {item["config"]["name"]: item for item in items if item.get("jetstream_type", "stream") == "stream"}

    async def _consumers(self, stream: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A stream's durable consumers; asked for only where it has any."""
        if not (stream.get("state") or {}).get("consumer_count"):
            return []
        items = await self._api.items(f"{ROOT}/jetstream/stream/{stream['id']}/consumers")
        return [item for item in items if item["config"].get("durable_name")]

    async def _buckets(self, account: str) -> dict[str, dict[str, Any]]:
        items = await self._api.items(f"{ROOT}/accounts/{account}/jetstream/kv-buckets")
        return {item["config"]["bucket"]: item for item in items}

    async def _signing_group(self, account: str) -> str:
        """A group that may sign any user; made when there is none."""
        path = f"{ROOT}/accounts/{account}/account-sk-groups"
        for group in await self._api.items(path):
            if not (group["is_scoped"] or group["disabled"] or group["missing_seed"]):
                return str(group["id"])
        return str((await self._api.post(path, {"name": SIGNING_GROUP, "programmatic": False}))["id"])

    def _limits(self, limits: Limits) -> dict[str, Any]:
        """Where a system has tiers, JetStream's limits are those of the tier that the stream is in."""
        flat = claims.as_claims(limits)
        if not self._system.tiers:
            return flat
        jetstream = {name: flat.pop(name) for name in _JETSTREAM_LIMITS}
        return {**flat, "tiered_limits": {f"R{self._system.replicas}": jetstream}}

    def _limits_from(self, body: Mapping[str, Any]) -> Limits:
        tier = (body.get("tiered_limits") or {}).get(f"R{self._system.replicas}") or {}
        return claims.limits_from({**body, **tier})


def _tags(account: Mapping[str, Any]) -> Sequence[str]:
    return (account.get("jwt_settings") or {}).get("tags") or ()


def _stream_config(stream: Stream) -> dict[str, Any]:
    return {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": stream.max_age_s * NANOSECONDS,
        "max_bytes": stream.max_bytes,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "num_replicas": stream.replicas,
        "duplicate_window": stream.duplicate_window_s * NANOSECONDS,
        "allow_batched": stream.allow_batched,
        "allow_direct": False,
        "allow_rollup_hdrs": False,
        "deny_delete": False,
        "deny_purge": False,
        "sealed": False,
    }


def _stream(config: Mapping[str, Any]) -> Stream:
    as_wanted = (config["storage"], config["retention"], config["discard"]) == ("file", "limits", "old")
    subjects = tuple(config.get("subjects") or ())
    return Stream(
        name=config["name"],
        subjects=subjects if as_wanted else (*subjects, "another storage, retention or discard policy"),
        max_age_s=config["max_age"] // NANOSECONDS,
        max_bytes=config["max_bytes"],
        duplicate_window_s=config.get("duplicate_window", 0) // NANOSECONDS,
        allow_batched=bool(config.get("allow_batched")),
        replicas=config["num_replicas"],
    )


def _consumer_settings(consumer: Consumer) -> dict[str, Any]:
    """What can be changed of a consumer. It is replicated as its stream is."""
    return {
        "ack_wait": consumer.ack_wait_s * NANOSECONDS,
        "max_ack_pending": consumer.max_ack_pending,
        "max_deliver": consumer.max_deliver,
        "filter_subjects": [consumer.filter] if consumer.filter else [],
        "num_replicas": 0,
    }


def _consumer(item: Mapping[str, Any]) -> Consumer:
    config = item["config"]
    return Consumer(
        stream=item["stream_name"],
        name=item["name"],
        ack_wait_s=config.get("ack_wait", 0) // NANOSECONDS,
        max_ack_pending=config.get("max_ack_pending", 0),
        max_deliver=config.get("max_deliver", -1),
        filter=config.get("filter_subject") or " ".join(config.get("filter_subjects") or ()),
    )


def _bucket(config: Mapping[str, Any]) -> Bucket:
    return Bucket(config["bucket"], config.get("max_bytes", -1), config.get("num_replicas", 1))
