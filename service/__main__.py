"""`python -m service`: reads the environment, runs the task under uvloop."""

from __future__ import annotations

import argparse
import sys

import uvloop

from service import __version__, app, check, settings, telemetry
from service.errors import ServiceFault


def main() -> int:
    """Exit code: 0 drained, or nothing is missing; 1 could not start or go on, or something is; 2 a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Answers customer.balance from DynamoDB. Configured by the environment alone: "
        "DDB_TABLE (required), NATS_URL, NATS_CREDENTIALS, SEED_ROWS, MAX_IN_FLIGHT, HEALTH_PORT, "
        "SHUTDOWN_TIMEOUT, LOG_LEVEL, LOG_FORMAT, and the AWS SDK's own variables.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="say whether everything a task needs is there; takes no request and writes nothing",
    )
    arguments = parser.parse_args()
    try:
        configured = settings.load()
        telemetry.configure_logs(configured)
        if arguments.check:
            return uvloop.run(_check(configured))
        uvloop.run(app.run(configured))
    except ServiceFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the task took the signal over
        return 130
    return 0


async def _check(configured: settings.Settings) -> int:
    code = 0
    async for verdict, what in check.check(configured):
        print(f"{verdict:<8} {what}", flush=True)
        code |= verdict == "missing"
    return code


if __name__ == "__main__":
    sys.exit(main())
