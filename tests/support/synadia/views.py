"""What the fake of Synadia's control plane answers: each resource as the OpenAPI document has it."""

from __future__ import annotations

from typing import Any, Final

from control_plane.auth import claims
from service.nats import creds
from tests.support.synadia.state import Account, FakeSynadia, User

NOW: Final = "2026-01-01T00:00:00Z"
_TEAM: Final = {"id": "team", "name": "loyalty"}


def _system_info(fake: FakeSynadia, name: str) -> dict[str, Any]:
    return {
        "config_mode": False,
        "connection_type": "Direct",
        "id": f"sys-{name}",
        "is_tenant": True,
        "jetstream_enabled": fake.jetstream,
        "name": name,
        "state": "Connected",
        "user_jwt_expires_in_secs": 0,
    }


def system(fake: FakeSynadia, name: str) -> dict[str, Any]:
    return {
        **_system_info(fake, name),
        "created": NOW,
        "has_managed_operator": True,
        "has_managed_system_account": True,
        "jetstream_tiers": fake.tiers,
        "limited": False,
        "team": _TEAM,
        "updates_available": {},
    }


def _account_info(account: Account) -> dict[str, Any]:
    return {
        "auth_type": "jwt",
        "id": account.id,
        "is_platform_account": False,
        "is_scp_account": False,
        "is_system_account": account.system,
        "name": account.name,
        "user_jwt_expires_in_secs": account.expires_s,
    }


def account(fake: FakeSynadia, account: Account) -> dict[str, Any]:
    return {
        "account_public_key": account.key.public,
        "auth_type": "jwt",
        "connectors": False,
        "created": NOW,
        "id": account.id,
        "is_platform_account": False,
        "is_scp_account": False,
        "is_system_account": account.system,
        "jwt_settings": account.settings,
        "jwt_sync_error": "",
        "jwt_sync_status": "Complete",
        "name": account.name,
        "nsc_managed": False,
        "system": _system_info(fake, fake.systems[0]),
        "team": _TEAM,
        "user_jwt_expires_in_secs": account.expires_s,
        "workloads": False,
    }


def user(fake: FakeSynadia, user: User) -> dict[str, Any]:
    account = fake.accounts[user.account]
    token = creds.parse(fake.creds(user)).token
    return {
        "account": _account_info(account),
        "claims": claims.decode(token),
        "created": NOW,
        "id": user.id,
        "jwt": token,
        "jwt_expires_at_max": 0,
        "jwt_expires_in_secs": user.expires_s,
        "jwt_settings": user.settings,
        "name": user.name,
        "sk_group_id": user.group,
        "system": _system_info(fake, fake.systems[0]),
        "team": _TEAM,
        "user_public_key": user.key.public,
    }


def stream(fake: FakeSynadia, id_: str) -> dict[str, Any]:
    count = sum(owner == id_ for consumer, owner in fake.owner.items() if consumer in fake.consumers)
    empty = {"bytes": 0, "first_seq": 0, "first_ts": NOW, "last_seq": 0, "last_ts": NOW, "messages": 0}
    return {
        "config": fake.streams[id_],
        "created": NOW,
        "id": id_,
        "jetstream_type": "stream",
        "name": fake.streams[id_]["name"],
        "state": {**empty, "consumer_count": count},
        "ts": NOW,
    }


def consumer(fake: FakeSynadia, id_: str, *, listed: bool) -> dict[str, Any]:
    nowhere = {"consumer_seq": 0, "stream_seq": 0}
    kind = {"consumer_type": "pull"} if listed else {}
    return {
        **kind,
        "ack_floor": nowhere,
        "config": fake.consumers[id_],
        "created": NOW,
        "delivered": nowhere,
        "id": id_,
        "name": fake.consumers[id_]["durable_name"],
        "num_ack_pending": 0,
        "num_pending": 0,
        "num_redelivered": 0,
        "num_waiting": 0,
        "stream_name": fake.streams[fake.owner[id_]]["name"],
        "ts": NOW,
    }


def bucket(fake: FakeSynadia, id_: str) -> dict[str, Any]:
    config = fake.buckets[id_]
    return {"bytes": 0, "config": config, "id": id_, "num_values": 0, "stream_name": f"KV_{config['bucket']}"}
