"""`python -m service [ROLE]`: read the environment and run the role under uvloop."""

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
    "devices": "service.devices.role:Devices",
}
"""Role -> class, imported on demand, so that no role loads another's libraries."""


def main() -> int:
    """Run; return the exit code.

    0: drained, or with --check nothing is missing. 1: could not start or continue, or something is missing. argparse
    exits with 2 for an invalid argument.
    """
    parser = argparse.ArgumentParser(
        prog="python -m service", add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", nargs="?", choices=ROLES, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("-h", "--help", action="store_true", help="show this and the role's environment variables")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="check that everything the role needs exists; takes no work and writes nothing",
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
    except KeyboardInterrupt:  # Ctrl-C before `Stop` handles signals
        return 130
    return 0


def _environment(name: str, settings: type[Settings]) -> str:
    lines = [f"Only the environment configures a role. Variables of the role {name}:", ""]
    for variable, meaning, default in variables(settings):
        lines.append(f"  {variable:<17} {meaning}{f' ({default})' if default else ''}")
    return "\n".join([*lines, "", "Also the AWS SDK's variables, and OpenTelemetry's where it is installed."])


async def _check(make: Any, settings: Settings) -> int:
    code = 0
    async for verdict, what in check(make(settings, Stop())):
        print(f"{verdict:<8} {what}", flush=True)
        code |= verdict == "missing"
    return code


if __name__ == "__main__":
    sys.exit(main())
