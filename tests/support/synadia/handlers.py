"""What the fake of Synadia's control plane does, by the `operationId` of the OpenAPI document."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from control_plane.auth.claims import Key
from tests.support.synadia import views
from tests.support.synadia.state import FakeSynadia, User
from tests.support.synadia.views import NOW

Answer = tuple[int, Any]
Handle = Callable[[dict[str, str], Any], Answer]
"""Handle a request, given the path's parameters and the body."""
T = TypeVar("T")


class Missing(Exception):
    """No resource has that id."""


def _found(kind: dict[str, T], id_: str) -> T:
    if id_ not in kind:
        raise Missing(f"there is no {id_}")
    return kind[id_]


def handlers(fake: FakeSynadia) -> dict[str, Handle]:
    """By the document's `operationId`."""
    return {
        "listTeams": lambda ids, body: (200, {"items": [{"id": "team", "name": "loyalty", "created": NOW}]}),
        "listTeamSystems": lambda ids, body: (200, {"items": [views.system(fake, name) for name in fake.systems]}),
        "getSystem": lambda ids, body: _get_system(fake, ids["systemId"]),
        **_account_handlers(fake),
        **_user_handlers(fake),
        **_stream_handlers(fake),
        **_bucket_handlers(fake),
    }


def _get_system(fake: FakeSynadia, id_: str) -> Answer:
    names = {f"sys-{name}": name for name in fake.systems}
    return 200, views.system(fake, _found(names, id_))


def _account_handlers(fake: FakeSynadia) -> dict[str, Handle]:
    def create(ids: dict[str, str], body: Any) -> Answer:
        if body["name"] in {account.name for account in fake.accounts.values()}:
            return 409, f"the name {body['name']} is taken"
        if len(fake.accounts) > fake.quota:
            return 422, "the tier allows no more accounts"
        account = fake.accounts[fake.add_account(body["name"], **body.get("jwt_settings", {}))]
        return 201, views.account(fake, account)

    def patch(ids: dict[str, str], body: Any) -> Answer:
        account = _found(fake.accounts, ids["accountId"])
        merge(account.settings, body.get("jwt_settings", {}))
        return 200, views.account(fake, account)

    def delete(ids: dict[str, str], body: Any) -> Answer:
        id_ = ids["accountId"]
        _found(fake.accounts, id_)
        users = [user for user in fake.users.values() if user.account == id_]
        if users or fake.of(fake.streams, id_) or fake.of(fake.buckets, id_):
            return 422, "the account is not empty"
        del fake.accounts[id_]
        return 204, None

    def create_group(ids: dict[str, str], body: Any) -> Answer:
        id_ = fake.new_id("skg")
        state = {"id": id_, "is_scoped": False, "disabled": False, "missing_seed": False, "created": NOW}
        fake.groups[id_], fake.owner[id_] = {**body, **state}, ids["accountId"]
        fake.group_keys[id_] = Key.account()
        return 201, fake.groups[id_]

    def revoke(ids: dict[str, str], body: Any) -> Answer:
        key = ids["userNkeyPublic"]
        fake.revoked[key] = body["before"] or int(time.time())
        account = _found(fake.accounts, ids["accountId"])
        account.settings.setdefault("revocations", {})[key] = fake.revoked[key]
        return 201, {"account_id": account.id, "before": fake.revoked[key], "created": NOW, "user_nkey_public": key}

    return {
        "listAccounts": lambda ids, body: (
            200,
            {"items": [views.account(fake, each) for each in fake.accounts.values()]},
        ),
        "createAccount": create,
        "getAccount": lambda ids, body: (200, views.account(fake, _found(fake.accounts, ids["accountId"]))),
        "updateAccount": patch,
        "deleteAccount": delete,
        "listAccountSkGroup": lambda ids, body: (200, {"items": fake.of(fake.groups, ids["accountId"])}),
        "createAccountSkGroup": create_group,
        "createOrUpdateNatsUserRevocation": revoke,
    }


def _user_handlers(fake: FakeSynadia) -> dict[str, Handle]:
    def users(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.accounts, ids["accountId"])
        there = [user for user in fake.users.values() if user.account == ids["accountId"]]
        return 200, {"items": [views.user(fake, user) for user in there]}

    def create(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.groups, body["sk_group_id"])
        account = ids["accountId"]
        if body["name"] in {user.name for user in fake.users.values() if user.account == account}:
            return 409, f"there is a user {body['name']}"
        user = User(fake.new_id("usr"), account, body["name"], body["sk_group_id"], body.get("jwt_settings", {}))
        fake.users[user.id] = user
        return 201, views.user(fake, user)

    def patch(ids: dict[str, str], body: Any) -> Answer:
        user = _found(fake.users, ids["userId"])
        merge(user.settings, body.get("jwt_settings", {}))
        user.expires_s = body.get("jwt_expires_in_secs", user.expires_s)
        return 200, views.user(fake, user)

    def rotate(ids: dict[str, str], body: Any) -> Answer:
        user = _found(fake.users, ids["userId"])
        user.key = Key.user()
        return 200, views.user(fake, user)

    def gateway_token(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.users, ids["userId"])
        fake.tokens.append(f"nhg_{len(fake.tokens)}")
        return 201, {"token": fake.tokens[-1]}

    return {
        "listUsers": users,
        "createUser": create,
        "updateNatsUser": patch,
        "deleteNatsUser": lambda ids, body: _delete(fake.users, ids["userId"]),
        "downloadNatsUserCreds": lambda ids, body: (200, fake.creds(_found(fake.users, ids["userId"]))),
        "rotateNatsUser": rotate,
        "downloadNatsUserHttpGwToken": gateway_token,
    }


def _stream_handlers(fake: FakeSynadia) -> dict[str, Handle]:
    def create(ids: dict[str, str], body: Any) -> Answer:
        account = ids["accountId"]
        if body["name"] in {stream["name"] for stream in fake.of(fake.streams, account)}:
            return 409, "stream name already in use"
        if f"R{body['num_replicas']}" not in fake.tiers:
            return 422, "no such tier"
        id_ = fake.new_id("str")
        fake.streams[id_], fake.owner[id_] = body, account
        return 201, views.stream(fake, id_)

    def patch(ids: dict[str, str], body: Any) -> Answer:
        id_ = ids["streamId"]
        if _found(fake.streams, id_)["storage"] != body["storage"]:
            return 400, "stream configuration update can not change storage type"
        fake.streams[id_] = body
        return 200, views.stream(fake, id_)

    def create_consumer(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.streams, ids["streamId"])
        id_ = fake.new_id("con")
        fake.consumers[id_], fake.owner[id_] = body, ids["streamId"]
        return 201, views.consumer(fake, id_, listed=False)

    def patch_consumer(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.consumers, ids["consumerId"]).update(body)
        return 200, views.consumer(fake, ids["consumerId"], listed=False)

    def consumers(ids: dict[str, str], body: Any) -> Answer:
        there = [id_ for id_ in fake.consumers if fake.owner[id_] == ids["streamId"]]
        return 200, {"items": [views.consumer(fake, id_, listed=True) for id_ in there]}

    def streams(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.accounts, ids["accountId"])
        there = [id_ for id_ in fake.streams if fake.owner[id_] == ids["accountId"]]
        return 200, {"items": [views.stream(fake, id_) for id_ in there]}

    return {
        "listStreams": streams,
        "createStream": create,
        "updateStream": patch,
        "deleteStream": lambda ids, body: _delete(fake.streams, ids["streamId"]),
        "listConsumers": consumers,
        "createPullConsumer": create_consumer,
        "updatePullConsumer": patch_consumer,
    }


def _bucket_handlers(fake: FakeSynadia) -> dict[str, Handle]:
    def create(ids: dict[str, str], body: Any) -> Answer:
        account = ids["accountId"]
        if body["bucket"] in {bucket["bucket"] for bucket in fake.of(fake.buckets, account)}:
            return 409, "bucket name already in use"
        id_ = fake.new_id("kv")
        fake.buckets[id_], fake.owner[id_] = body, account
        return 201, views.bucket(fake, id_)

    def patch(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.buckets, ids["streamId"]).update(body["config"])
        return 200, views.bucket(fake, ids["streamId"])

    def buckets(ids: dict[str, str], body: Any) -> Answer:
        _found(fake.accounts, ids["accountId"])
        there = [id_ for id_ in fake.buckets if fake.owner[id_] == ids["accountId"]]
        return 200, {"items": [views.bucket(fake, id_) for id_ in there]}

    return {
        "listKvBuckets": buckets,
        "createKvBucket": create,
        "updateKvBucket": patch,
        "deleteKvBucket": lambda ids, body: _delete(fake.buckets, ids["streamId"]),
    }


def merge(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    """Apply a PATCH: null removes, an object is merged."""
    for name, value in changes.items():
        if value is None:
            settings.pop(name, None)
        elif isinstance(value, dict) and isinstance(settings.get(name), dict):
            merge(settings[name], value)
        else:
            settings[name] = value


def _delete(kind: dict[str, Any], id_: str) -> Answer:
    _found(kind, id_)
    del kind[id_]
    return 204, None
