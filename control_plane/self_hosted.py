"""A self-hosted nats-server in operator mode: accounts are pushed to its resolver as JWTs.

Everything that is to be known of an account is in its JWT, which the server keeps: limits, and for each user a scoped
signing key with that user's permissions. Those keys are derived from the operator's seed: nothing else is to be kept,
and a changed permission holds for credentials that are already out (docs/adr/0006-self-hosted.md).

`$SYS.REQ.CLAIMS.*`: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt/resolver
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import nats.errors
from nats.aio.client import Client, RawCredentials
from nats.js import JetStreamContext

from control_plane import claims, jetstream
from control_plane.claims import Key
from control_plane.desired import ADMINISTRATOR, TAG, Bucket, Consumer, Limits, Stream, User
from control_plane.errors import ProvisioningError
from control_plane.provider import AccountSummary, Actual
from control_plane.tls import TlsClient

TIMEOUT_S: Final = 5
ADMINISTRATOR_S: Final = 300
BATCHES_API_LEVEL: Final = 4


@asynccontextmanager
async def connected(servers: str | Sequence[str], creds: str, **options: Any) -> AsyncIterator[Client]:
    """A connection that does not retry; raises `ProvisioningError` when there is none to be had."""
    problems: list[Exception] = []

    async def note(error: Exception) -> None:
        problems.append(error)

    client = TlsClient()
    try:
        await client.connect(
            servers if isinstance(servers, str) else list(servers),
            user_credentials=RawCredentials(creds),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=TIMEOUT_S,
            error_cb=note,
            **options,
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        reason = str(problems[0] if problems else error).removeprefix("nats: ") or type(error).__name__
        await client.close()  # nats-py leaves the socket of a refused connection open
        raise ProvisioningError(f"no connection to {servers}: {reason}") from None
    try:
        yield client
    finally:
        await client.close()


def administrator_of(operator: Key, account: str) -> str:
    """Credentials with every permission in an account that `SelfHosted` made."""
    return administrator_creds(_signer(operator, account, ADMINISTRATOR.name, 0), account)


def _signer(operator: Key, account: str, role: str, generation: int) -> Key:
    return operator.derive(f"{account}/{role}/{generation}")


def administrator_creds(signer: Key, account: str, *, expires_s: int = ADMINISTRATOR_S) -> str:
    """Credentials with every permission in one account, for as long as provisioning takes."""
    return claims.mint_creds(ADMINISTRATOR, signer, account=account, expires_s=expires_s)


async def push_account(system: Client, token: str) -> None:
    """Give the server an account's JWT; it replaces an older one at once.

    Raises `ProvisioningError` with the server's reason when it does not take it.
    """
    await _system_request(system, "$SYS.REQ.CLAIMS.UPDATE", token)


async def delete_account(system: Client, account: str, operator: Key) -> None:
    """Have the server forget an account; its resolver must allow that.

    Raises `ProvisioningError` with the server's reason when it does not.
    """
    await _system_request(system, "$SYS.REQ.CLAIMS.DELETE", claims.deletion_jwt([account], operator))


async def _system_request(system: Client, subject: str, payload: str = "") -> Any:
    try:
        reply = await system.request(subject, payload.encode(), timeout=TIMEOUT_S)
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

    def __init__(self, servers: str, system: Client, operator: Key, system_account: str) -> None:
        self._servers = servers
        self._system = system
        self._operator = operator
        self._system_account = system_account

    async def accounts(self) -> Sequence[AccountSummary]:
        ids: list[str] = await _system_request(self._system, "$SYS.REQ.CLAIMS.LIST")
        found = [(id_, await self._claims(id_)) for id_ in sorted({*ids, self._system_account})]
        return [
            AccountSummary(id_, body["name"], id_ == self._system_account, TAG in body["nats"].get("tags", ()))
            for id_, body in found
        ]

    async def actual(self, account: str) -> Actual:
        body = (await self._claims(account))["nats"]
        async with self._administrator(account) as js:
            configs = [info.config for info in await js.streams_info()]
            names = [config.name or "" for config in configs if not jetstream.is_bucket(config)]
            infos = [(name, info.config) for name in names for info in await js.consumers_info(name)]
        streams = [jetstream.stream_from(config) for config in configs if not jetstream.is_bucket(config)]
        buckets = [jetstream.bucket_from(config) for config in configs if jetstream.is_bucket(config)]
        return Actual(
            limits=claims.limits_from(body.get("limits", {})),
            users={name: claims.user_from(name, scope["template"]) for name, scope in _scopes(body).items()},
            streams={stream.name: stream for stream in streams},
            buckets={bucket.name: bucket for bucket in buckets},
            consumers={
                (stream, config.durable_name): jetstream.consumer_from(stream, config)
                for stream, config in infos
                if config.durable_name
            },
        )

    async def max_replicas(self) -> int:
        """As many as the cluster has servers, up to what JetStream replicates to."""
        cluster = (await self._jetstream_of_server()).get("meta_cluster") or {}
        return max(1, min(5, int(cluster.get("cluster_size", 1))))

    async def takes_batches(self) -> bool:
        """By JetStream's API level, which is 4 since nats-server 2.14."""
        api = (await self._jetstream_of_server()).get("api") or {}
        return int(api.get("level", 0)) >= BATCHES_API_LEVEL

    async def create_account(self, name: str, limits: Limits) -> str:
        account = Key.account().public
        administrator = _signer(self._operator, account, ADMINISTRATOR.name, 0).public
        token = claims.account_jwt(
            name, account, self._operator, limits=limits, signing_keys=[administrator], tags=[TAG]
        )
        await push_account(self._system, token)
        return account

    async def put_limits(self, account: str, limits: Limits) -> None:
        async with self._changing(account) as body:
            body["limits"] = {**body.get("limits", {}), **claims.as_claims(limits)}

    async def remove_account(self, account: str) -> None:
        await delete_account(self._system, account, self._operator)

    async def put_user(self, account: str, user: User) -> None:
        async with self._changing(account) as body:
            generation = _generation(_scopes(body).get(user.name))
            _set_scope(
                body, claims.scope(_signer(self._operator, account, user.name, generation).public, user, generation)
            )

    async def remove_user(self, account: str, name: str) -> None:
        async with self._changing(account) as body:
            body["signing_keys"] = [key for key in body["signing_keys"] if _role(key) != name]

    async def put_stream(self, account: str, stream: Stream) -> None:
        async with self._administrator(account) as js:
            await jetstream.put(js, jetstream.stream_config(stream))

    async def remove_stream(self, account: str, name: str) -> None:
        async with self._administrator(account) as js:
            await jetstream.remove(js, name)

    async def put_consumer(self, account: str, consumer: Consumer) -> None:
        async with self._administrator(account) as js:
            await jetstream.put_consumer(js, consumer)

    async def put_bucket(self, account: str, bucket: Bucket) -> None:
        async with self._administrator(account) as js:
            await jetstream.put(js, jetstream.bucket_config(bucket))

    async def remove_bucket(self, account: str, name: str) -> None:
        await self.remove_stream(account, jetstream.KV_PREFIX + name)

    async def creds(self, account: str, user: str) -> str:
        scope = _scopes((await self._claims(account))["nats"])[user]
        key = Key.user()
        signer = _signer(self._operator, account, user, _generation(scope))
        return claims.creds_file(claims.scoped_user_jwt(user, key.public, signer, account=account), key)

    async def is_current(self, account: str, user: str, creds: str) -> bool:
        body = (await self._claims(account))["nats"]
        scope = _scopes(body)[user]
        try:
            token = claims.decode(claims.token_of(creds))
        except ValueError:
            return False
        revoked = body.get("revocations", {}).get(token.get("sub"), 0)
        signed = token.get("iss") == scope["key"] and token.get("nats", {}).get("issuer_account") == account
        return bool(signed and token.get("iat", 0) > revoked)

    async def rotate(self, account: str, user: str) -> str:
        """By the next generation of the user's signing key: what the last one signed is void at once."""
        async with self._changing(account) as body:
            scope = _scopes(body)[user]
            generation = _generation(scope) + 1
            signer = _signer(self._operator, account, user, generation).public
            _set_scope(body, {**scope, "key": signer, "description": str(generation)})
        return await self.creds(account, user)

    async def issue(self, account: str, user: str) -> str:
        return await self.creds(account, user)

    async def revoke(self, account: str, key: str) -> None:
        async with self._changing(account) as body:
            body.setdefault("revocations", {})[key] = int(time.time())

    async def gateway_token(self, account: str, user: str) -> str:  # noqa: ARG002
        raise ProvisioningError("a nats-server has no HTTP gateway; `make up` brings one of its own")

    async def _jetstream_of_server(self) -> dict[str, Any]:
        reply = await self._system.request("$SYS.REQ.SERVER.PING.JSZ", b"", timeout=TIMEOUT_S)
        found: dict[str, Any] = json.loads(reply.data)["data"]
        return found

    @asynccontextmanager
    async def _administrator(self, account: str) -> AsyncIterator[JetStreamContext]:
        async with connected(self._servers, administrator_of(self._operator, account)) as client:
            yield client.jetstream(timeout=TIMEOUT_S)

    async def _claims(self, account: str) -> dict[str, Any]:
        try:
            return claims.decode(await _system_request(self._system, f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"))
        except ValueError:
            raise ProvisioningError(f"the server knows nothing of account {account}") from None

    @asynccontextmanager
    async def _changing(self, account: str) -> AsyncIterator[dict[str, Any]]:
        """The account's settings, to be changed; the server is given them at the end."""
        body = await self._claims(account)
        yield body["nats"]
        await push_account(self._system, claims.sign_again(body, self._operator))


def _role(key: Any) -> str | None:
    return key.get("role") if isinstance(key, dict) else None


def _scopes(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Users' scoped signing keys, by user."""
    return {key["role"]: key for key in body.get("signing_keys") or () if _role(key)}


def _set_scope(body: dict[str, Any], scope: dict[str, Any]) -> None:
    others = [key for key in body.get("signing_keys") or () if _role(key) != scope["role"]]
    body["signing_keys"] = [*others, scope]


def _generation(scope: Mapping[str, Any] | None) -> int:
    return int((scope or {}).get("description") or 0)
