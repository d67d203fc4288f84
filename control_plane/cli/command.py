"""Code shared by all commands: how they run, and how they read their arguments."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Annotated, Any, Final, get_type_hints

import nats.errors
import typer
from nats.js.errors import Error as JetStreamError
from rich.console import Console

from control_plane import aws
from control_plane.desired import EVERYTHING
from control_plane.errors import ProvisioningError, UsageError
from control_plane.files import Files
from control_plane.parts import BALANCES, PARTS
from control_plane.provider import AccountSummary, Provider
from control_plane.reconcile import reconcile
from control_plane.resources import Part, User
from control_plane.target import Target, account_files, account_name

NATS_URL: Final = "tls://connect.ngs.global"
WRONG_ARGUMENT: Final = 2
LARGEST_STREAM: Final = 10 * 1024**4
_SIZE: Final = re.compile(r"(\d{1,9}) ?([MGT]iB)")
_UNITS: Final = {"MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
console = Console(highlight=False, soft_wrap=True, emoji=False)


def asynchronous(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a command from an async function whose first parameter is the `Target` from the program's options."""

    @wraps(work)
    def command(ctx: typer.Context, **given: Any) -> None:
        _run(work(ctx.obj, **given))

    hints = {**get_type_hints(work, include_extras=True), "ctx": typer.Context}
    target, *others = inspect.signature(work).parameters.values()
    parameters = [target.replace(name="ctx", kind=target.KEYWORD_ONLY), *others]
    typed = [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
    command.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in typed}
    return command


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(WRONG_ARGUMENT) from None
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (nats.errors.Error, JetStreamError) as error:
        print(f"error: NATS says {error}; see the server's log, and run it again", file=sys.stderr)
        raise typer.Exit(1) from None


async def found_account(provider: Provider, target: Target) -> tuple[AccountSummary, Files]:
    name = account_name(target.initials)
    account = await reconcile.find(provider, name)
    if account is None:
        raise ProvisioningError(f"there is no account {name}; run create")
    return account, account_files(target.config, account.name)


def files_of(target: Target) -> Files:
    """Return the account's files, without checking that the account exists."""
    name = account_name(target.initials)
    return account_files(target.config, name if (target.config / name).is_dir() else name.upper())


def initials_in(account: str) -> str:
    return aws.check_initials(account.partition("-")[2])


def user_named(name: str) -> User:
    names = [user.name for user in EVERYTHING.users]
    if name not in names:
        raise UsageError(f"there is no user {name}; give one of {', '.join(names)}")
    return EVERYTHING.user(name)


def size_in_bytes(text: str) -> int:
    """Parse a stream's size, such as `5GiB` or `512 MiB`. Raises `UsageError`."""
    found = _SIZE.fullmatch(text)
    size = int(found[1]) * _UNITS[found[2]] if found else 0
    if not BALANCES.max_bytes <= size <= LARGEST_STREAM:
        raise UsageError(f"--stream-size {text} is not a size from 10MiB to 10TiB; give one such as 5GiB")
    return size


def parts_named(names: Sequence[str]) -> list[Part]:
    there = {part.name: part for part in PARTS}
    for name in names:
        if name not in there:
            known = ", ".join(there)
            raise UsageError(f"there is no part {name}; --with takes one of: {known}")
    return [there[name] for name in dict.fromkeys(names)]
