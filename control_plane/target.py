"""Which place and which account a command is about, from its options, the environment and the private files."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane import aws, claims, self_hosted, synadia, synadia_api
from control_plane.claims import Key
from control_plane.desired import SERVICE
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.provider import Provider
from control_plane.self_hosted import SelfHosted
from control_plane.synadia import Synadia

ROOT: Final = Path(__file__).parent.parent
CONFIG: Final = Path(os.path.relpath(ROOT / "cdk" / "config"))
TOKEN_FILE: Final = "control-plane-agent"  # noqa: S105  its name


@dataclass(frozen=True)
class Target:
    """Which place to provision, and where its credentials are kept."""

    system: Annotated[
        str | None, typer.Option(help="Synadia: the system's id or name; not needed if there is one.")
    ] = None
    api: Annotated[str, typer.Option(envvar="SYNADIA_API", help="Synadia: the API's address.")] = synadia_api.BASE_URL
    server: Annotated[str | None, typer.Option(help="The address of your own nats-server, in operator mode.")] = None
    operator: Annotated[Path | None, typer.Option(help="... the file with its operator's seed.")] = None
    system_creds: Annotated[Path | None, typer.Option(help="... the .creds of a user of its system account.")] = None
    config: Annotated[Path, typer.Option(help="The folder for credentials and tokens.")] = CONFIG


@asynccontextmanager
async def open_provider(target: Target) -> AsyncIterator[Provider]:
    if target.server is None:
        token = _token(target.config)
        async with synadia_api.connect(token, target.api) as api:
            yield Synadia(api, await synadia.find_system(api, target.system))
        return
    if target.operator is None or target.system_creds is None:
        raise ProvisioningError("--server needs --operator and --system-creds too")
    operator = _operator(target.operator)
    creds = _read(target.system_creds)
    try:
        token_claims = claims.decode(claims.token_of(creds))
    except ValueError:
        raise ProvisioningError(f"{target.system_creds} is not a .creds file") from None
    system_account = token_claims["nats"].get("issuer_account") or token_claims["iss"]
    async with self_hosted.connected(target.server, creds) as client:
        yield SelfHosted(target.server, client, operator, system_account)


def _operator(path: Path) -> Key:
    text = _read(path).strip()
    if text.startswith("SO"):
        try:
            return Key.from_seed(text)
        except ValueError:
            pass
    raise ProvisioningError(f"{path} holds no operator's seed (SO...)")


def _token(config: Path) -> str:
    token = os.environ.get("SYNADIA_TOKEN", "").strip() or Files(config).token(TOKEN_FILE)
    if not token:
        raise ProvisioningError(
            "there is no personal access token; make one (Synadia Cloud, profile, personal access tokens) and put it "
            f"into SYNADIA_TOKEN or {Files(config).token_path(TOKEN_FILE)}, or give --server"
        )
    return token


def service_creds(config: Path) -> str:
    creds = Files(config).creds(SERVICE.name)
    if creds is None:
        raise ProvisioningError(f"there is no {Files(config).creds_path(SERVICE.name)}; run create")
    return creds


def account_name(initials: str | None) -> str:
    return f"POC-{initials_of_account(initials)}"


def initials_of_account(given: str | None) -> str:
    found = given or aws.caller_initials()
    if not found and sys.stdin.isatty():
        found = ask("your initials: ")
    if not found:
        raise ProvisioningError("whose account is meant is not known; give --initials")
    return aws.check_initials(found)


def ask(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise ProvisioningError(f"{path} cannot be read ({reason})") from None
