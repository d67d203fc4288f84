"""A control plane that keeps state and is as strict as the documented one: required fields, status codes, pages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from aiohttp import web

from control_plane import claims
from control_plane.claims import Key
from control_plane.desired import User

TOKEN = "uat_the_token_of_the_tests"
PAGE = 2
Failure = Literal["500", "lost before", "lost after"]

REQUIRED: dict[str, set[str]] = {
    "account": {"name"},
    "user": {"name", "sk_group_id"},
    "group": {"name", "programmatic"},
    "bucket": {"bucket", "storage"},
    "stream": {
        "allow_direct", "allow_rollup_hdrs", "deny_delete", "deny_purge", "discard", "max_age", "max_bytes",
        "max_consumers", "max_msgs", "max_msgs_per_subject", "name", "num_replicas", "retention", "sealed", "storage",
    },
    "revocation": {"before"},
}  # fmt: skip


def _key() -> Key:
    return Key.account()


@dataclass
class FakeSynadia:
    """What the control plane knows, and how it is to fail."""

    url: str = ""
    tiers: list[str] = field(default_factory=lambda: ["R1", "R3"])
    jetstream: bool = True
    systems: list[str] = field(default_factory=lambda: ["NGS"])
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    quota: int = 10
    calls: list[tuple[str, str]] = field(default_factory=list)
    fail_from: int | None = None
    """The call from which on every one fails, counted from 0; None: none does."""
    failure: Failure = "500"
    answer_with: list[web.Response] = field(default_factory=list)
    """Given instead of doing anything, one a call."""
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def add_account(self, name: str, **settings: Any) -> str:
        id_ = self.new_id("acc")
        self.accounts[id_] = {
            "id": id_,
            "name": name,
            "is_system_account": settings.pop("system", False),
            "jwt_settings": settings,
            "account_public_key": _key().public,
        }
        return id_

    def of(self, kind: dict[str, dict[str, Any]], account: str) -> list[dict[str, Any]]:
        return [item for item in kind.values() if item["account"] == account]


def refused(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


@asynccontextmanager
async def fake_synadia() -> AsyncIterator[FakeSynadia]:
    fake = FakeSynadia()
    app = web.Application(middlewares=[_gate(fake)])
    _routes(app, fake)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
        fake.add_account("SYS", system=True)
        yield fake
    finally:
        await runner.cleanup()


def _gate(fake: FakeSynadia) -> Any:
    @web.middleware
    async def gate(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        number = len(fake.calls)
        fake.calls.append((request.method, request.path))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refused(401, "token is expired")
        if fake.answer_with:
            return fake.answer_with.pop(0)
        failing = fake.fail_from is not None and number >= fake.fail_from
        if failing and fake.failure == "500":
            return refused(500, "out of order")
        if failing and fake.failure == "lost before":
            assert request.transport
            request.transport.abort()
            raise asyncio.CancelledError
        response: web.StreamResponse = await handler(request)
        if failing:
            assert request.transport
            request.transport.abort()
        return response

    return gate


def _paged(request: web.Request, items: list[Any]) -> web.Response:
    start = int(request.query.get("from", "0"))
    response = web.json_response({"items": items[start : start + PAGE]})
    if start + PAGE < len(items):
        response.headers["Link"] = f'<{request.path}?from={start + PAGE}>; rel="next"'
    return response


async def _body(request: web.Request, kind: str) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(await request.read())
    missing = REQUIRED[kind] - body.keys()
    if missing:
        raise web.HTTPBadRequest(text=f"missing {sorted(missing)}")
    return body


def _routes(app: web.Application, fake: FakeSynadia) -> None:
    def found(kind: dict[str, dict[str, Any]], id_: str) -> dict[str, Any]:
        if id_ not in kind:
            raise web.HTTPNotFound(text="no such thing")
        return kind[id_]

    def lister(kind: dict[str, dict[str, Any]], parameter: str = "account") -> Any:
        async def handle(request: web.Request) -> web.Response:
            found(fake.accounts, request.match_info[parameter])
            return _paged(request, fake.of(kind, request.match_info[parameter]))

        return handle

    def deleter(kind: dict[str, dict[str, Any]]) -> Any:
        async def handle(request: web.Request) -> web.Response:
            found(kind, request.match_info["id"])
            del kind[request.match_info["id"]]
            return web.Response(status=204)

        return handle

    async def teams(request: web.Request) -> web.Response:
        return _paged(request, [{"id": "team-1", "name": "loyalty", "created": "2026-01-01T00:00:00Z"}])

    async def systems(request: web.Request) -> web.Response:
        items = [
            {"id": f"sys-{name}", "name": name, "jetstream_enabled": fake.jetstream, "jetstream_tiers": fake.tiers}
            for name in fake.systems
        ]
        return _paged(request, items)

    async def accounts(request: web.Request) -> web.Response:
        return _paged(request, list(fake.accounts.values()))

    async def create_account(request: web.Request) -> web.Response:
        body = await _body(request, "account")
        if body["name"] in {account["name"] for account in fake.accounts.values()}:
            return refused(409, f"the name {body['name']} is taken")
        if len(fake.accounts) > fake.quota:
            return refused(422, "the tier allows no more accounts")
        id_ = fake.add_account(body["name"], **body.get("jwt_settings", {}))
        return web.json_response(fake.accounts[id_], status=201)

    async def get_account(request: web.Request) -> web.Response:
        return web.json_response(found(fake.accounts, request.match_info["id"]))

    async def patch_account(request: web.Request) -> web.Response:
        account = found(fake.accounts, request.match_info["id"])
        account["jwt_settings"].update(orjson.loads(await request.read())["jwt_settings"])
        return web.json_response(account)

    async def delete_account(request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        found(fake.accounts, id_)
        if fake.of(fake.users, id_) or fake.of(fake.streams, id_) or fake.of(fake.buckets, id_):
            return refused(422, "the account is not empty")
        del fake.accounts[id_]
        return web.Response(status=204)

    async def create_group(request: web.Request) -> web.Response:
        body, id_ = await _body(request, "group"), fake.new_id("skg")
        group = {"id": id_, "is_scoped": False, "disabled": False, "missing_seed": False, **body}
        fake.groups[id_] = {**group, "account": request.match_info["account"]}
        return web.json_response(group, status=201)

    async def create_user(request: web.Request) -> web.Response:
        body, account = await _body(request, "user"), request.match_info["account"]
        found(fake.groups, body["sk_group_id"])
        if body["name"] in {user["name"] for user in fake.of(fake.users, account)}:
            return refused(409, f"there is a user {body['name']}")
        id_, key = fake.new_id("usr"), Key.user()
        user = {"id": id_, "user_public_key": key.public, "jwt_settings": {}, **body}
        fake.users[id_] = {**user, "account": account, "seed": key.seed}
        return web.json_response(user, status=201)

    async def patch_user(request: web.Request) -> web.Response:
        user = found(fake.users, request.match_info["id"])
        user["jwt_settings"].update(orjson.loads(await request.read())["jwt_settings"])
        return web.json_response(user)

    async def creds(request: web.Request) -> web.Response:
        user = found(fake.users, request.match_info["id"])
        nobody = User(user["name"], (), ())
        key = Key.from_seed(user["seed"])
        token = claims.user_jwt(nobody, key.public, _key(), account=user["account"])
        return web.Response(text=claims.creds_file(token, key), content_type="text/plain")

    async def rotate(request: web.Request) -> web.Response:
        user, key = found(fake.users, request.match_info["id"]), Key.user()
        user.update(user_public_key=key.public, seed=key.seed)
        return web.json_response(user)

    async def gateway_token(request: web.Request) -> web.Response:
        found(fake.users, request.match_info["id"])
        fake.tokens.append(f"nhg_{len(fake.tokens)}")
        return web.json_response({"token": fake.tokens[-1]}, status=201)

    async def revoke(request: web.Request) -> web.Response:
        body = await _body(request, "revocation")
        fake.revoked[request.match_info["key"]] = body["before"]
        return web.json_response(body, status=201)

    async def create_stream(request: web.Request) -> web.Response:
        body, id_ = await _body(request, "stream"), fake.new_id("str")
        account = request.match_info["account"]
        if body["name"] in {item["config"]["name"] for item in fake.of(fake.streams, account)}:
            return refused(409, "stream name already in use")
        if f"R{body['num_replicas']}" not in fake.tiers:
            return refused(422, "no such tier")
        stream = {"id": id_, "jetstream_type": "stream", "config": body, "account": account}
        fake.streams[id_] = stream
        return web.json_response(stream, status=201)

    async def patch_stream(request: web.Request) -> web.Response:
        stream = found(fake.streams, request.match_info["id"])
        stream["config"] = await _body(request, "stream")
        return web.json_response(stream)

    async def create_bucket(request: web.Request) -> web.Response:
        body, id_ = await _body(request, "bucket"), fake.new_id("kv")
        account = request.match_info["account"]
        if body["bucket"] in {item["config"]["bucket"] for item in fake.of(fake.buckets, account)}:
            return refused(409, "bucket name already in use")
        bucket = {"id": id_, "config": body, "account": account, "stream_name": f"KV_{body['bucket']}"}
        fake.buckets[id_] = bucket
        return web.json_response(bucket, status=201)

    async def patch_bucket(request: web.Request) -> web.Response:
        bucket = found(fake.buckets, request.match_info["id"])
        bucket["config"].update(orjson.loads(await request.read())["config"])
        return web.json_response(bucket)

    root, account = "/api/core/beta", "/api/core/beta/accounts/{account}"
    app.add_routes(
        [
            web.get(f"{root}/teams", teams),
            web.get(f"{root}/teams/{{team}}/systems", systems),
            web.get(f"{root}/systems/{{system}}/accounts", accounts),
            web.post(f"{root}/systems/{{system}}/accounts", create_account),
            web.get(f"{root}/accounts/{{id}}", get_account),
            web.patch(f"{root}/accounts/{{id}}", patch_account),
            web.delete(f"{root}/accounts/{{id}}", delete_account),
            web.get(f"{account}/account-sk-groups", lister(fake.groups)),
            web.post(f"{account}/account-sk-groups", create_group),
            web.get(f"{account}/nats-users", lister(fake.users)),
            web.post(f"{account}/nats-users", create_user),
            web.put(f"{account}/nats-user-revocations/{{key}}", revoke),
            web.patch(f"{root}/nats-users/{{id}}", patch_user),
            web.delete(f"{root}/nats-users/{{id}}", deleter(fake.users)),
            web.post(f"{root}/nats-users/{{id}}/creds", creds),
            web.post(f"{root}/nats-users/{{id}}/rotate", rotate),
            web.post(f"{root}/nats-users/{{id}}/http-gw-token", gateway_token),
            web.get(f"{account}/jetstream/streams", lister(fake.streams)),
            web.post(f"{account}/jetstream/streams", create_stream),
            web.patch(f"{root}/jetstream/stream/{{id}}", patch_stream),
            web.delete(f"{root}/jetstream/stream/{{id}}", deleter(fake.streams)),
            web.get(f"{account}/jetstream/kv-buckets", lister(fake.buckets)),
            web.post(f"{account}/jetstream/kv-buckets", create_bucket),
            web.patch(f"{root}/jetstream/kv-bucket/{{id}}", patch_bucket),
            web.delete(f"{root}/jetstream/kv-bucket/{{id}}", deleter(fake.buckets)),
        ]
    )
