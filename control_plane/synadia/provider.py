"""Synadia Cloud as a provider: https://cloud.synadia.com/api, with the paths of its OpenAPI document, `core/beta`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from control_plane import settings
from control_plane.auth.creds import Creds, Identity
from control_plane.desired import TAG
from control_plane.errors import ProvisioningError
from control_plane.provider import AccountSummary, Actual
from control_plane.resources import Account, Bucket, Consumer, Limits, Stream, User
from control_plane.settings import ObjectSettings
from control_plane.synadia.api import Answer, Api
from control_plane.synadia.system import ROOT, System

SIGNING_GROUP: Final = "customer-balance"
NEVER: Final = "jwt_expires_in_secs"
_JETSTREAM_LIMITS: Final = ("disk_storage", "mem_storage", "streams", "consumer")
_LABELS: Final = ("description", "metadata", "placement")
_CLEARED: Final = {
    "resp": None,
    "bearer_token": False,
    "src": None,
    "times": None,
    "times_location": None,
    "allowed_connection_types": None,
}
"""Resets everything that a user may have been given besides its permissions."""


class Synadia:
    """The provider for one system."""

    has_gateway = True
    takes_devices = False

    def __init__(self, api: Api, system: System) -> None:
        self._api = api
        self._system = system
        self._user_ids: dict[tuple[str, str], str] = {}

    async def accounts(self) -> Sequence[AccountSummary]:
        return [
            AccountSummary(account["id"], account["name"], account["is_system_account"], TAG in _tags(account))
            for account in await self._api.items(f"{ROOT}/systems/{self._system.id}/accounts")
        ]

    async def actual(self, account: str) -> Actual:
        view = await self._api.get(f"{ROOT}/accounts/{account}")
        users = await self._users(account)
        streams = await self._streams(account)
        consumers = [item for stream in streams.values() for item in await self._consumers(stream)]
        usual_s = (0, view.get("user_jwt_expires_in_secs", 0))
        return Actual(
            key=view.get("account_public_key"),
            limits=self._merged(_jwt_settings(view).get("limits") or {}),
            users={name: _user(user, usual_s) for name, user in users.items()},
            identities={name: _identity(view, user) for name, user in users.items()},
            streams={name: item["config"] for name, item in streams.items()},
            buckets={name: item["config"] for name, item in (await self._buckets(account)).items()},
            consumers={
                (item["stream_name"], item["name"]): settings.as_consumer_settings(item["config"])
                for item in consumers
            },
        )  # fmt: skip

    async def max_replicas(self) -> int:
        """Return the system's replicas. Raises `ProvisioningError` if it has no JetStream."""
        return self._system.replicas

    async def takes_batches(self) -> bool:
        return True  # the API's document has the setting

    async def create_account(self, name: str, wanted: Account) -> str:
        body = {"name": name, "jwt_settings": {"limits": self._limits(wanted.limits), "tags": [TAG]}}
        account = await self._api.post(f"{ROOT}/systems/{self._system.id}/accounts", body)
        return str(account["id"])

    async def adopt(self, account: str) -> None:
        path = f"{ROOT}/accounts/{account}"
        tags = _tags(await self._api.get(path))
        await self._api.patch(path, {"jwt_settings": {"tags": [*tags, TAG]}})

    async def put_limits(self, account: str, limits: Limits) -> None:
        await self._api.patch(f"{ROOT}/accounts/{account}", {"jwt_settings": {"limits": self._limits(limits)}})

    async def remove_account(self, account: str) -> None:
        await self._api.delete(f"{ROOT}/accounts/{account}")

    async def put_user(self, account: str, user: User) -> None:
        wanted = settings.user_settings(user)
        there = (await self._users(account)).get(user.name)
        if there is None:
            group = await self._signing_group(account)
            body = {"name": user.name, "sk_group_id": group, "jwt_settings": wanted}
            await self._api.post(f"{ROOT}/accounts/{account}/nats-users", body)
            return
        whole = {key: {"deny": [], **wanted[key]} for key in ("pub", "sub")}
        changed: dict[str, Any] = {"jwt_settings": {**_CLEARED, **wanted, **whole}}
        if there.get(NEVER):
            changed[NEVER] = 0
        await self._api.patch(f"{ROOT}/nats-users/{there['id']}", changed)

    async def remove_user(self, account: str, name: str) -> None:
        there = (await self._users(account)).get(name)
        if there:
            await self._api.delete(f"{ROOT}/nats-users/{there['id']}")

    async def put_stream(self, account: str, stream: Stream) -> None:
        there = (await self._streams(account)).get(stream.name)
        wanted = settings.stream_settings(stream)
        if there is None:
            await self._api.post(f"{ROOT}/accounts/{account}/jetstream/streams", wanted)
            return
        config = there["config"]
        settings.check_changeable("stream", stream.name, wanted, config)
        labels = {name: config[name] for name in _LABELS if config.get(name)}
        cleared = settings.cleared("stream", wanted, config)
        await self._api.patch(f"{ROOT}/jetstream/stream/{there['id']}", {**labels, **cleared, **wanted})

    async def remove_stream(self, account: str, name: str) -> None:
        there = (await self._streams(account)).get(name)
        if there:
            await self._api.delete(f"{ROOT}/jetstream/stream/{there['id']}")

    async def put_consumer(self, account: str, consumer: Consumer) -> None:
        stream = (await self._streams(account)).get(consumer.stream)
        if stream is None:
            raise ProvisioningError(f"there is no stream {consumer.stream}; run create")
        wanted = settings.consumer_settings(consumer)
        there = next((item for item in await self._consumers(stream) if item["name"] == consumer.name), None)
        if there is None:
            await self._api.post(f"{ROOT}/jetstream/stream/{stream['id']}/consumers/pull", wanted)
            return
        config = settings.as_consumer_settings(there["config"])
        settings.check_changeable("consumer", consumer.name, wanted, config)
        fixed = {"name", "durable_name", *settings.FIXED["consumer"]}
        changed = {name: value for name, value in wanted.items() if name not in fixed}
        cleared = settings.cleared("consumer", wanted, config)
        await self._api.patch(f"{ROOT}/consumers/pull/{there['id']}", {**cleared, **changed})

    async def put_bucket(self, account: str, bucket: Bucket) -> None:
        there = (await self._buckets(account)).get(bucket.name)
        wanted = settings.bucket_settings(bucket)
        if there is None:
            await self._api.post(f"{ROOT}/accounts/{account}/jetstream/kv-buckets", wanted)
            return
        settings.check_changeable("bucket", bucket.name, wanted, there["config"])
        changed = {name: value for name, value in wanted.items() if name not in {"bucket", "storage"}}
        cleared = settings.cleared("bucket", wanted, there["config"])
        await self._api.patch(f"{ROOT}/jetstream/kv-bucket/{there['id']}", {"config": {**cleared, **changed}})

    async def remove_bucket(self, account: str, name: str) -> None:
        there = (await self._buckets(account)).get(name)
        if there:
            await self._api.delete(f"{ROOT}/jetstream/kv-bucket/{there['id']}")

    def bucket_settings(self, bucket: Bucket) -> ObjectSettings:
        return settings.bucket_settings(bucket)

    async def identity(self, account: str, user: str) -> Identity:
        there = (await self._users(account)).get(user)
        if there is None:
            raise ProvisioningError(f"there is no user {user}; run create")
        return Identity(None, there["user_public_key"])

    async def creds(self, account: str, user: str) -> str:
        text = await self._api.text(f"{ROOT}/nats-users/{await self._user_id(account, user)}/creds")
        try:
            return Creds.parse(text).text
        except ValueError:
            raise ProvisioningError(f"the API's answer for user {user} is not credentials; run it again") from None

    async def renew(self, account: str, user: str) -> None:
        await self._api.order(f"{ROOT}/nats-users/{await self._user_id(account, user)}/rotate")

    async def retire(self, account: str, user: str, identity: str) -> None:  # noqa: ARG002  a key is one user's
        await self.revoke(account, identity)

    async def issue(self, account: str, user: str) -> str:
        await self.renew(account, user)
        return await self.creds(account, user)

    async def revoke(self, account: str, key: str) -> None:
        """Revoke; `before` 0 means now, by the server's clock."""
        await self._api.put(f"{ROOT}/accounts/{account}/nats-user-revocations/{key}", {"before": 0})

    async def gateway_token(self, account: str, user: str) -> str:
        path = f"{ROOT}/nats-users/{await self._user_id(account, user)}/http-gw-token"
        return str((await self._api.post(path))["token"])

    async def _users(self, account: str) -> dict[str, Answer]:
        users = {user["name"]: user for user in await self._api.items(f"{ROOT}/accounts/{account}/nats-users")}
        self._user_ids.update({(account, name): str(user["id"]) for name, user in users.items()})
        return users

    async def _user_id(self, account: str, name: str) -> str:
        if (account, name) not in self._user_ids:
            await self.identity(account, name)
        return self._user_ids[account, name]

    async def _streams(self, account: str) -> dict[str, Answer]:
        items = await self._api.items(f"{ROOT}/accounts/{account}/jetstream/streams")
        return {item["config"]["name"]: item for item in items if item.get("jetstream_type", "stream") == "stream"}

    async def _consumers(self, stream: Answer) -> list[Answer]:
        """Return a stream's durable consumers; call the API only if it has any."""
        if not (stream.get("state") or {}).get("consumer_count"):
            return []
        items = await self._api.items(f"{ROOT}/jetstream/stream/{stream['id']}/consumers")
        return [item for item in items if item["config"].get("durable_name")]

    async def _buckets(self, account: str) -> dict[str, Answer]:
        items = await self._api.items(f"{ROOT}/accounts/{account}/jetstream/kv-buckets")
        return {item["config"]["bucket"]: item for item in items}

    async def _signing_group(self, account: str) -> str:
        """Return a group that may sign any user; create it if necessary."""
        path = f"{ROOT}/accounts/{account}/account-sk-groups"
        for group in await self._api.items(path):
            if not (group["is_scoped"] or group["disabled"] or group["missing_seed"]):
                return str(group["id"])
        return str((await self._api.post(path, {"name": SIGNING_GROUP, "programmatic": False}))["id"])

    def _limits(self, limits: Limits) -> dict[str, Any]:
        """Return the limits; in a system with tiers, JetStream's limits are set on the stream's tier."""
        flat: dict[str, Any] = dict(settings.limits_settings(limits))
        if self._system.tier is None:
            return flat
        jetstream = {name: flat.pop(name) for name in _JETSTREAM_LIMITS}
        return {**flat, "tiered_limits": {self._system.tier: jetstream}}

    def _merged(self, body: Mapping[str, Any]) -> ObjectSettings:
        tier = (body.get("tiered_limits") or {}).get(self._system.tier) or {}
        return {**body, **tier}


def _jwt_settings(view: Mapping[str, Any]) -> Mapping[str, Any]:
    return view.get("jwt_settings") or {}


def _tags(account: Mapping[str, Any]) -> Sequence[str]:
    return _jwt_settings(account).get("tags") or ()


def _user(view: Answer, usual_s: tuple[int, ...]) -> ObjectSettings:
    """Return a user's permissions and limits, and its JWTs' expiry if that differs from the account's rule."""
    ends_s = view.get(NEVER, 0)
    return {**_jwt_settings(view), **({} if ends_s in usual_s else {NEVER: ends_s})}


def _identity(account: Answer, user: Answer) -> Identity:
    claimed = ((account.get("claims") or {}).get("nats") or {}).get("revocations") or {}
    revoked = {**claimed, **(_jwt_settings(account).get("revocations") or {})}
    expires = bool(account.get("user_jwt_expires_in_secs"))
    return Identity(account.get("account_public_key"), user["user_public_key"], expires=expires, revoked=revoked)
