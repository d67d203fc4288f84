"""Give a user new credentials, and revoke the old ones last: identity, file, token, secret, then the revocation.

First, a note beside the credentials records what to revoke. While it exists, `status` shows it, and `rotate`, `create`
or `secret push` continues where the rotation stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from control_plane import aws
from control_plane.auth.creds import Creds
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.provider import Provider
from control_plane.resources import User


async def rotate(
    provider: Provider, account: str, user: User, files: Files, secret: str | None = None
) -> AsyncIterator[str]:
    """Rotate, or continue an interrupted rotation; yield what was done. `secret`: initials of the secret to update."""
    identity = await provider.identity(account, user.name)
    current = identity.issuer or identity.key
    noted = _noted(files, account, user.name) or {"account": account, "old": current, "secret": None}
    secret = secret or noted["secret"]
    files.note_rotation(user.name, {**noted, "secret": secret})
    if current == noted["old"]:
        await provider.renew(account, user.name)
    creds = await provider.creds(account, user.name)
    files.write_creds(user.name, creds)
    yield f"rotated  {files.creds_path(user.name)}"
    if user.gateway and provider.has_gateway:
        yield await _renew_token(provider, account, user, files, creds)
    if secret:
        yield f"pushed   {await _push(secret, creds)}; tasks take it up at their next roll"
    await provider.retire(account, user.name, noted["old"])
    files.note_rotation(user.name, None)
    yield f"voided   the old credentials of user {user.name}"


async def issue(
    provider: Provider, account: str, user: User, files: Files, secret: str | None = None
) -> AsyncIterator[str]:
    """Issue new credentials and keep the old ones valid; yield what was done, and how to revoke the old ones."""
    old = (await provider.identity(account, user.name)).key or _held_key(files, user.name)
    try:
        creds = await provider.issue(account, user.name)
    except ProvisioningError as error:
        raise ProvisioningError(f"{error}; the old ones are valid until `revoke --key {old}`") from None
    files.write_creds(user.name, creds)
    yield f"rotated  {files.creds_path(user.name)}"
    if user.gateway and provider.has_gateway:
        yield await _renew_token(provider, account, user, files, creds)
    if secret:
        yield f"pushed   {await asyncio.to_thread(aws.push_secret, secret, creds)}; tasks take it up at their next roll"
    yield f"when nothing uses the old ones any more: revoke --key {old}"


def _held_key(files: Files, user: str) -> str:
    try:
        return Creds.parse(files.creds_anywhere(user) or "").key.public
    except ValueError:
        problem = f"the key of the old credentials is not known: {files.creds_path(user)} is missing or damaged"
        raise ProvisioningError(f"{problem}; leave out --keep-old, which makes every old one void") from None


async def _renew_token(provider: Provider, account: str, user: User, files: Files, creds: str) -> str:
    token = await provider.gateway_token(account, user.name)
    files.write_token(user.name, token, token_owner(account, Creds.parse(creds).key.public))
    return f"renewed  {files.token_path(user.name)}"


def token_owner(account: str, key: str | None) -> str:
    """Return the owner to note for a gateway's token."""
    return f"{account}/{key}"


async def _push(initials: str, creds: str) -> str:
    try:
        return await asyncio.to_thread(aws.push_secret, initials, creds)
    except ProvisioningError as error:
        stands = "the new credentials are in their file, and the old ones are valid until this is done"
        raise ProvisioningError(f"{error}; {stands}: go on with `secret push --initials {initials}`") from None


def _noted(files: Files, account: str, user: str) -> dict[str, Any] | None:
    noted = files.rotation(user)
    return noted if noted and noted.get("account") == account else None
