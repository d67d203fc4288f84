"""`python -m service`: reads the environment, runs the task under uvloop."""

from __future__ import annotations

import argparse
import sys

import uvloop

from service import __version__, app, settings, telemetry
from service.errors import ServiceFault


def main() -> int:
    """Exit code: 0 drained, 1 could not start or go on, 2 a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Answers customer.balance from DynamoDB. Configured by the environment alone: "
        "DDB_TABLE (required), NATS_URL, NATS_CREDENTIALS, SEED_ROWS, MAX_IN_FLIGHT, HEALTH_PORT, "
        "SHUTDOWN_TIMEOUT, LOG_LEVEL, LOG_FORMAT, and the AWS SDK's own variables.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args()
    try:
        configured = settings.load()
        telemetry.configure_logs(configured)
        uvloop.run(app.run(configured))
    except ServiceFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the task took the signal over
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
