"""`python -m service.healthcheck`: exit with 0 if the task's event loop responds. Saves the image a curl."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

from service import HEALTH_PORT

TIMEOUT_S: Final = 3.0


def main() -> int:
    connection = HTTPConnection("127.0.0.1", int(os.environ.get("HEALTH_PORT") or HEALTH_PORT), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, HTTPException) as error:
        print(f"error: the service does not answer ({error})", file=sys.stderr)
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
