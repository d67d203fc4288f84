"""The credentials part of a plan: files, tokens for the HTTP gateway, and the deployment's secret."""

from __future__ import annotations

import asyncio

from control_plane import aws
from control_plane.auth.creds import Creds, Identity, creds_differences
from control_plane.desired import SERVICE
from control_plane.errors import ProvisioningError
from control_plane.files import FORMER_TOKEN, Files
from control_plane.plan import Step
from control_plane.provider import AccountSummary, Actual, Provider
from control_plane.reconcile import rotation
from control_plane.reconcile.rotation import token_owner
from control_plane.resources import Account, User
from control_plane.settings import Difference


async def credential_steps(
    provider: Provider,
    account: AccountSummary | None,
    actual: Actual | None,
    wanted: Account,
    files: Files,
    secret: str | None,
) -> list[Step]:
    """Return the steps: each user's file, then its token; last, if `secret` has initials, the secret for them."""
    identities = actual.identities if actual else {}
    id_ = account.id if account else None
    steps = []
    for user in wanted.users:
        if user.devices:
            continue
        unfinished = files.rotation(user.name)
        if unfinished and unfinished.get("account") == id_:
            steps.append(_rotation_step(provider, user, files))
            continue
        steps.append(_creds_step(provider, identities.get(user.name), user, files))
        if user.gateway and provider.has_gateway:
            steps.append(_token_step(provider, id_, identities.get(user.name), user, files))
    if secret:
        steps.append(await _secret_step(secret, files, steps[0]))
    return steps


def _rotation_step(provider: Provider, user: User, files: Files) -> Step:
    async def finish(id_: str) -> None:
        async for _ in rotation.rotate(provider, id_, user, files):
            pass

    drift = (Difference("old ones", "void", "not yet"),)
    return Step(f"credentials {files.creds_path(user.name)}: unfinished rotation", "change", finish, drift)


def _creds_step(provider: Provider, identity: Identity | None, user: User, files: Files) -> Step:
    async def write(id_: str) -> None:
        files.write_creds(user.name, await provider.creds(id_, user.name))

    async def move(_: str) -> None:
        files.write_creds(user.name, text)

    resource, former = f"credentials {files.creds_path(user.name)}", files.former_path(user.name)
    text = files.creds_anywhere(user.name) or ""
    drift = _drift(text, user, identity)
    if former and not drift:
        return Step(resource, "change", move, (Difference("place", str(files.folder), str(files.former)),))
    if former or not files.creds_path(user.name).exists():
        return Step(resource, "create", write)
    return Step(resource, "change" if drift else "keep", write, drift)


def _drift(text: str, user: User, identity: Identity | None) -> tuple[Difference, ...]:
    try:
        creds = Creds.parse(text)
    except ValueError:
        return (Difference("file", "credentials", "damaged"),)
    if identity is None:
        return (Difference("account", "one that is there", "one that is gone"),)
    return creds_differences(creds, user, identity)


def _token_step(provider: Provider, id_: str | None, identity: Identity | None, user: User, files: Files) -> Step:
    async def write(account: str) -> None:
        key = (await provider.identity(account, user.name)).key
        files.write_token(user.name, await provider.gateway_token(account, user.name), token_owner(account, key))
        if files.former:
            (files.former / f"{FORMER_TOKEN}.token").unlink(missing_ok=True)

    resource = f"gateway token {files.token_path(user.name)}"
    if files.token(user.name) is None:
        return Step(resource, "create", write)
    wanted = token_owner(id_, identity.key) if id_ and identity else "a user not created yet"
    actual = files.token_owner(user.name) or "unknown"
    drift = (Difference("token of", wanted, actual),) if wanted != actual else ()
    return Step(resource, "change" if drift else "keep", write, drift)


async def _secret_step(initials: str, files: Files, service: Step) -> Step:
    """Return the step for the secret. `service` is the step for the service's credentials file."""

    async def push(_: str) -> None:
        creds = files.creds(SERVICE.name)
        if creds is None:
            raise ProvisioningError(f"there is no {files.creds_path(SERVICE.name)}; run create")
        await asyncio.to_thread(aws.push_secret, initials, creds)

    resource = f"secret {aws.secret_name(initials)}"
    there = await asyncio.to_thread(aws.secret_creds, initials)
    if there is None:
        return Step(resource, "create", push)
    moved = [difference.field for difference in service.differences] == ["place"]
    if not (service.action == "keep" or moved) or there != files.creds_anywhere(SERVICE.name):
        return Step(resource, "change", push, (Difference("credentials", "those in the file", "others"),))
    return Step(resource, "keep", push)
