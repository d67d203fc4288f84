"""A self-hosted nats-server in operator mode: accounts are pushed to its resolver as JWTs.

The account's JWT, which the server stores, holds everything: limits, and a scoped signing key per user with that user's
permissions. The keys are derived from the operator's seed, so nothing else must be stored, and a changed permission
also applies to credentials already issued (docs/adr/0006-self-hosted.md).

`$SYS.REQ.CLAIMS.*`: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt/resolver
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from control_plane.auth import claims, scopes
from control_plane.auth.claims import Key
from control_plane.auth.creds import Identity
from control_plane.desired import ADMINISTRATOR, TAG
from control_plane.errors import ProvisioningError
from control_plane.provider import AccountSummary, Actual
from control_plane.resources import Account, Bucket, Consumer, Limits, Stream, User
from control_plane.self_hosted import changes, jetstream
from control_plane.self_hosted.client import PatientClient
from control_plane.settings import KV_PREFIX, ObjectSettings, bucket_stream_settings, limits_settings
from service.nats import connect
from service.nats.connect import NotConnectedError

TIMEOUT_S: Final = 5
ADMINISTRATOR_S: Final = 300
BATCHES_API_LEVEL: Final = 4
FOR_GOOD: Final = 253_402_300_799
"""The last second of the year 9999."""


def connected(
    servers: str | Sequence[str], creds: str, *, inbox_prefix: str = "_INBOX"
) -> AbstractAsyncContextManager[Client]:
    """Connect, without reconnecting later. Raises `ProvisioningError` if no connection can be made."""
    return connect.connected(
        servers, creds, _not_connected, client=PatientClient, within_s=TIMEOUT_S, reconnects=False,
        inbox_prefix=inbox_prefix,
    )  # fmt: skip


def _not_connected(error: NotConnectedError) -> ProvisioningError:
    return ProvisioningError(f"no connection to {error.servers}: {error}")


def administrator_of(operator: Key, account: str, *, expires_s: int = ADMINISTRATOR_S) -> str:
    """Return credentials with every permission in an account that `SelfHosted` created."""
    return administrator_creds(_signer(operator, account, ADMINISTRATOR.name, 0), account, expires_s=expires_s)


def _signer(operator: Key, account: str, role: str, generation: int) -> Key:
    return operator.derive(f"{account}/{role}/{generation}")


def administrator_creds(signer: Key, account: str, *, expires_s: int = ADMINISTRATOR_S) -> str:
    """Return credentials with every permission in one account, valid for `expires_s` seconds."""
    return claims.mint_creds(ADMINISTRATOR, signer, account=account, expires_s=expires_s)


async def push_account(system: Client, token: str) -> None:
    """Send the server an account's JWT, which replaces the previous one at once.

    Raises `ProvisioningError` with the server's reason if it refuses.
    """
    await _system_request(system, changes.UPDATE, token)


async def delete_account(system: Client, account: str, operator: Key) -> None:
    """Delete an account from the server, whose resolver must allow that.

    Raises `ProvisioningError` with the server's reason if it refuses.
    """
    await _system_request(system, "$SYS.REQ.CLAIMS.DELETE", claims.deletion_jwt([account], operator))


async def _system_request(system: Client, subject: str, payload: str = "") -> Any:
    try:
        reply = await system.request(subject, payload.encode(), timeout=TIMEOUT_S)
    except nats.errors.MaxPayloadError:
        raise ProvisioningError(
            f"the account's JWT has {len(payload):,} bytes; raise the server's max_payload"
        ) from None
    except nats.errors.Error as error:
        raise ProvisioningError(
            f"the server does not answer {subject} ({error}); give a user of its system account"
        ) from None
    if not reply.data.startswith(b"{"):
        return reply.data.decode()
    answer = json.loads(reply.data)
    if "error" in answer:
        raise ProvisioningError(f"the server refused {subject}: {answer['error'].get('description', answer)}")
    return answer.get("data")


class SelfHosted:
    """The provider for a self-hosted server. `system` is a connection as a user of the system account."""

    has_gateway = False
    takes_devices = True

    def __init__(self, servers: str, system: Client, operator: Key, system_account: str) -> None:
        self._servers = servers
        self._system = system
        self._operator = operator
        self._system_account = system_account

    async def accounts(self) -> Sequence[AccountSummary]:
        ids: list[str] = await _system_request(self._system, "$SYS.REQ.CLAIMS.LIST")
        found = [(id_, await self.claims_of(id_)) for id_ in sorted({*ids, self._system_account})]
        return [
            AccountSummary(id_, body["name"], id_ == self._system_account, TAG in (body["nats"].get("tags") or ()))
            for id_, body in found
        ]

    async def actual(self, account: str) -> Actual:
        body = (await self.claims_of(account))["nats"]
        streams, consumers = await self._jetstream(account, body)
        newest = scopes.newest(body)
        return Actual(
            key=account,
            limits=body.get("limits") or {},
            users={name: scope.get("template") or {} for name, scope in newest.items()},
            identities={name: scopes.identity(account, body, scope) for name, scope in newest.items()},
            streams={name: config for name, config in streams.items() if not jetstream.is_bucket(name)},
            buckets={
                name.removeprefix(KV_PREFIX): config for name, config in streams.items() if jetstream.is_bucket(name)
            },
            consumers=consumers,
            rotating=frozenset(name for name in newest if len(scopes.of_user(body, name)) > 1),
        )

    def signer(self, account: str, user: str, generation: int) -> Key:
        return _signer(self._operator, account, user, generation)

    def device_key(self, account: str, device: str, serial: int) -> str:
        """Return the public key of a device's user. Nobody holds its seed: a device connects with its JWT alone."""
        return self._operator.derive(f"{account}/device/{device}/{serial}", user=True).public

    async def _jetstream(
        self, account: str, body: Mapping[str, Any]
    ) -> tuple[dict[str, ObjectSettings], dict[tuple[str, str], ObjectSettings]]:
        """Return streams and consumers; empty for an account not yet adopted, which cannot be read."""
        administrator = _signer(self._operator, account, ADMINISTRATOR.name, 0).public
        if administrator not in (body.get("signing_keys") or ()):
            return {}, {}
        async with self.administrator(account) as client:
            streams = await jetstream.streams(client)
            consumers = {
                (stream, name): config
                for stream in streams
                for name, config in (await jetstream.durable_consumers(client, stream)).items()
            }
        return streams, consumers

    async def max_replicas(self) -> int:
        """Return the number of servers in the cluster, up to 5, JetStream's limit."""
        cluster = (await self._jetstream_of_server()).get("meta_cluster") or {}
        return max(1, min(5, int(cluster.get("cluster_size", 1))))

    async def takes_batches(self) -> bool:
        """Check JetStream's API level, which is 4 since nats-server 2.14."""
        api = (await self._jetstream_of_server()).get("api") or {}
        return int(api.get("level", 0)) >= BATCHES_API_LEVEL

    async def create_account(self, name: str, wanted: Account) -> str:
        """Leave out the user of devices: before the consumers exist, anything a device publishes would be lost."""
        account = Key.account().public
        users = [user for user in wanted.users if not user.devices]
        keys: list[Any] = [self.signer(account, ADMINISTRATOR.name, 0).public]
        keys += [claims.scope(self.signer(account, user.name, 0).public, user, 0) for user in users]
        token = claims.account_jwt(name, account, self._operator, limits=wanted.limits, signing_keys=keys, tags=[TAG])
        await push_account(self._system, token)
        return account

    async def adopt(self, account: str) -> None:
        administrator = _signer(self._operator, account, ADMINISTRATOR.name, 0).public

        def edit(body: dict[str, Any]) -> None:
            body["tags"] = list(dict.fromkeys([*(body.get("tags") or ()), TAG]))
            scopes.put(body, administrator)

        await self.change(account, edit)

    async def put_limits(self, account: str, limits: Limits) -> None:
        given = limits_settings(limits)
        await self.change(account, lambda body: body.update(limits={**(body.get("limits") or {}), **given}))

    async def remove_account(self, account: str) -> None:
        await delete_account(self._system, account, self._operator)

    async def put_user(self, account: str, user: User) -> None:
        """Set the permissions on every key of the user, even one being retired: its credentials still work."""

        def edit(body: dict[str, Any]) -> None:
            there = scopes.of_user(body, user.name)
            signers = [scopes.generation(scope) for scope in there] or [0]
            for generation in signers:
                key = self.signer(account, user.name, generation).public
                scopes.put(body, claims.scope(key, user, generation))

        await self.change(account, edit)

    async def remove_user(self, account: str, name: str) -> None:
        await self.change(account, lambda body: scopes.remove(body, name))

    async def put_stream(self, account: str, stream: Stream) -> None:
        async with self.administrator(account) as client:
            await jetstream.put_stream(client.jetstream(timeout=TIMEOUT_S), stream)

    async def remove_stream(self, account: str, name: str) -> None:
        async with self.administrator(account) as client:
            await jetstream.remove(client.jetstream(timeout=TIMEOUT_S), name)

    async def put_consumer(self, account: str, consumer: Consumer) -> None:
        async with self.administrator(account) as client:
            await jetstream.put_consumer(client.jetstream(timeout=TIMEOUT_S), consumer)

    async def put_bucket(self, account: str, bucket: Bucket) -> None:
        async with self.administrator(account) as client:
            await jetstream.put(client.jetstream(timeout=TIMEOUT_S), bucket_stream_settings(bucket))

    async def remove_bucket(self, account: str, name: str) -> None:
        await self.remove_stream(account, KV_PREFIX + name)

    def bucket_settings(self, bucket: Bucket) -> ObjectSettings:
        return bucket_stream_settings(bucket)

    async def identity(self, account: str, user: str) -> Identity:
        body = (await self.claims_of(account))["nats"]
        return scopes.identity(account, body, scopes.of(body, user))

    async def creds(self, account: str, user: str) -> str:
        scope = scopes.of((await self.claims_of(account))["nats"], user)
        key = Key.user()
        signer = _signer(self._operator, account, user, scopes.generation(scope))
        return claims.creds_file(claims.scoped_user_jwt(user, key.public, signer, account=account), key)

    async def renew(self, account: str, user: str) -> None:
        """Add the next generation of the user's signing key beside the current one."""
        generation = scopes.generation(scopes.of((await self.claims_of(account))["nats"], user)) + 1
        signer = _signer(self._operator, account, user, generation).public
        own = {"key": signer, "description": str(generation)}
        await self.change(account, lambda body: scopes.put(body, {**scopes.of(body, user), **own}))

    async def retire(self, account: str, user: str, identity: str) -> None:
        """Remove the signing key: everything that it signed becomes invalid at once."""
        await self.change(account, lambda body: scopes.remove(body, user, identity))

    async def issue(self, account: str, user: str) -> str:
        return await self.creds(account, user)

    async def revoke(self, account: str, key: str, *more: str) -> None:
        """Revoke keys permanently: each has only one JWT, whose age must not be judged by this machine's clock."""
        given = dict.fromkeys((key, *more), FOR_GOOD)
        await self.change(account, lambda body: body.update(revocations={**(body.get("revocations") or {}), **given}))

    async def gateway_token(self, account: str, user: str) -> str:  # noqa: ARG002
        raise ProvisioningError("a nats-server has no HTTP gateway; `make up` starts one")

    async def _jetstream_of_server(self) -> dict[str, Any]:
        return await _system_request(self._system, "$SYS.REQ.SERVER.PING.JSZ") or {}

    def administrator(self, account: str) -> AbstractAsyncContextManager[Client]:
        return connected(self._servers, administrator_of(self._operator, account))

    async def claims_of(self, account: str) -> dict[str, Any]:
        try:
            return claims.decode(await _system_request(self._system, f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"))
        except ValueError:
            raise ProvisioningError(f"the server does not know account {account}") from None

    async def change(self, account: str, edit: changes.Edit) -> None:
        """Change the account's settings, keeping concurrent changes by others."""
        read, push = partial(self.claims_of, account), partial(push_account, self._system)
        await changes.make(self._system, account, self._operator, edit, read=read, push=push)
