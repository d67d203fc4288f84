"""`python -m service [ROLE]`: reads the environment, runs the role under uvloop."""

from __future__ import annotations

import argparse
import pkgutil
import sys
from typing import Any, Final

import structlog
import uvloop

from service import __version__
from service.runtime.check import check
from service.runtime.errors import ServiceError
from service.runtime.logs import configure_logs, last_line
from service.runtime.process import Stop, run
from service.runtime.settings import Settings, load, variables

log: Final = structlog.get_logger("service")

DEFAULT: Final = "customer"
ROLES: Final = {
    "customer": "service.customer.role:Customer",
    "archive": "service.archive.role:Archive",
    "queue": "service.queue.role:Queue",
}
"""Imported only when it is asked for: a role does not pay for another's libraries."""


def main() -> int:
    """Exit code: 0 drained, or nothing is missing; 1 could not start or go on, or something is; 2 a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m service", add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", nargs="?", choices=ROLES, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("-h", "--help", action="store_true", help="this, with the role's environment variables")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="say whether everything the role needs is there; takes no work and writes nothing",
    )
    arguments = parser.parse_args()
    role = pkgutil.resolve_name(ROLES[arguments.role])
    if arguments.help:
        parser.description, parser.epilog = role.__doc__, _environment(arguments.role, role.SETTINGS)
        parser.print_help()
        return 0
    settings: Settings | None = None
    try:
        settings = load(role.SETTINGS)
        configure_logs(settings)
        if arguments.check:
            return uvloop.run(_check(role, settings))
        uvloop.run(run(role, settings))
    except ServiceError as error:
        print(f"error: {error}" if arguments.check else last_line(error, settings), file=sys.stderr)
        return 1
    except Exception as error:
        log.critical("crashed", exc_info=error)
        return 1
    except KeyboardInterrupt:  # before the process took the signal over
        return 130
    return 0


def _environment(name: str, settings: type[Settings]) -> str:
    lines = [f"The environment configures it, and nothing else. Variables of the role {name}:", ""]
    for variable, meaning, default in variables(settings):
        lines.append(f"  {variable:<17} {meaning}{f' ({default})' if default else ''}")
    return "\n".join([*lines, "", "Also the AWS SDK's own variables, and OpenTelemetry's where it is installed."])


async def _check(make: Any, settings: Settings) -> int:
    code = 0
    async for verdict, what in check(make(settings, Stop())):
        print(f"{verdict:<8} {what}", flush=True)
        code |= verdict == "missing"
    return code


if __name__ == "__main__":
    sys.exit(main())
