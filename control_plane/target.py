"""Find a command's provider and account from its options, the environment and the private files."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane import aws
from control_plane.auth.claims import Key
from control_plane.auth.creds import Creds
from control_plane.desired import SERVICE
from control_plane.errors import ProvisioningError, UsageError
from control_plane.files import Files, is_private
from control_plane.provider import Provider
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from control_plane.synadia import api as synadia_api
from control_plane.synadia.provider import Synadia
from control_plane.synadia.system import find_system
from deploy import file

ROOT: Final = Path(__file__).parent.parent
CONFIG: Final = Path(os.path.relpath(ROOT / "cdk" / "config"))
TOKEN_FILE: Final = "control-plane-agent"  # noqa: S105  its name
PREFIX: Final = "POC-"


@dataclass(frozen=True)
class Target:
    """The account, where to provision it, and the folder of its credentials."""

    initials: Annotated[
        str | None,
        typer.Option(
            help="The account is POC-<initials>. Default: those of deploy/settings.toml, then the variable INITIALS, "
            "then the AWS caller's."
        ),
    ] = None
    system: Annotated[
        str | None, typer.Option(help="Synadia: the system's id or name; not needed if you have only one.")
    ] = None
    api: Annotated[str, typer.Option(envvar="SYNADIA_API", help="Synadia: the API's address.")] = synadia_api.BASE_URL
    server: Annotated[str | None, typer.Option(help="The address of your own nats-server, in operator mode.")] = None
    operator: Annotated[Path | None, typer.Option(help="With --server: the file with its operator's seed.")] = None
    system_creds: Annotated[
        Path | None, typer.Option(help="With --server: .creds of a user of its system account.")
    ] = None
    config: Annotated[Path, typer.Option(help="Folder for the token, and for a folder of credentials per account.")] = (
        CONFIG
    )


def account_files(config: Path, account: str) -> Files:
    """Return an account's files: its own folder, and the folder that all accounts once shared."""
    return Files(config / account, former=config)


@asynccontextmanager
async def open_provider(target: Target) -> AsyncIterator[Provider]:
    if target.config.exists() and not target.config.is_dir():
        raise UsageError(f"--config {target.config} is not a folder")
    if target.server is None:
        async with synadia_api.connect(_token(target.config), target.api, say) as api:
            yield Synadia(api, await find_system(api, target.system))
        return
    if target.operator is None or target.system_creds is None:
        raise UsageError("--server needs --operator and --system-creds too")
    operator = _operator(target.operator)
    try:
        creds = Creds.parse(_read(target.system_creds))
    except ValueError:
        raise ProvisioningError(f"{target.system_creds} is not a .creds file") from None
    async with self_hosted.connected(target.server, creds.text) as client:
        yield SelfHosted(target.server, client, operator, creds.account or "")


def say(line: str) -> None:
    """Print a line for people, on standard error: scripts read standard output."""
    print(line, file=sys.stderr)


def _operator(path: Path) -> Key:
    text = _read(path).strip()
    if text.startswith("SO"):
        try:
            return Key.from_seed(text)
        except ValueError:
            pass
    raise ProvisioningError(f"{path} holds no operator's seed (SO...)")


def _token(config: Path) -> str:
    files = Files(config)
    path = files.token_path(TOKEN_FILE)
    token = os.environ.get("SYNADIA_TOKEN", "").strip()
    if not token:
        token = files.token(TOKEN_FILE) or ""
        if token and not is_private(path):
            say(f"note: others can read {path}; prevent that with `chmod 600 {path}`")
    if not token:
        raise ProvisioningError(
            "there is no personal access token; make one (Synadia Cloud, profile, personal access tokens) and put it "
            f"into SYNADIA_TOKEN or {path}, or give --server"
        )
    return token


def service_creds(files: Files) -> str:
    """Return the service's credentials. Raises `ProvisioningError` if they are missing or damaged."""
    creds = files.creds_anywhere(SERVICE.name)
    path = files.former_path(SERVICE.name) or files.creds_path(SERVICE.name)
    if creds is None:
        raise ProvisioningError(f"there is no {path}; run create")
    try:
        return Creds.parse(creds).text
    except ValueError:
        raise ProvisioningError(f"{path} is damaged; run create, which makes it again") from None


def account_name(initials: str | None) -> str:
    """Return the account's name. The case of the initials is kept: an account may have a lower-case name."""
    return PREFIX + initials_of_account(initials)


def initials_of_account(given: str | None) -> str:
    found = given or _initials_of_deployment() or aws.caller_initials()
    if not found and sys.stdin.isatty():
        found = ask("your initials: ")
    if not found:
        raise UsageError("cannot tell which account you mean; pass --initials")
    aws.check_initials(found)
    return found


def _initials_of_deployment() -> str:
    """Return the initials that `make synth` and `make deploy` also use; empty if none are set."""
    try:
        return str(file.read(file.FILE).get("initials") or "") or os.environ.get("INITIALS", "")
    except file.SettingsError as error:
        raise ProvisioningError(str(error)) from None


def ask(question: str) -> str:
    """Ask; return the answer. Ctrl-C ends the program at once, even inside asyncio."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(question).strip()
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, former)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise ProvisioningError(f"{path} cannot be read ({reason})") from None
