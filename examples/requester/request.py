"""`python request.py CLIENT_ID`: ask for a client's balance over NATS. Needs `pip install nats-py[nkeys]`.

NATS_URL is the server, NATS_CREDS the path of the .creds file; the defaults are those of `make up`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

import nats
import nats.errors

TRIES = 6
TIMEOUT_S = 5


async def main(client_id: str) -> int:
    connection = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
        user_credentials=os.environ.get("NATS_CREDS", ".local/creds/client.creds"),
    )
    try:
        for attempt in range(1, TRIES + 1):
            try:
                reply = await connection.request(
                    "customer.balance", json.dumps({"client_id": client_id}).encode(), timeout=TIMEOUT_S
                )
            except (nats.errors.NoRespondersError, nats.errors.TimeoutError) as error:
                # No task has room or none runs. Wait a random time, longer each time, so that requesters spread.
                problem = str(error)
                await asyncio.sleep(random.uniform(0.05, 0.5) * attempt)
                continue
            if code := (reply.headers or {}).get("Nats-Service-Error-Code"):
                print(f"{code}: {json.loads(reply.data)['error']}", file=sys.stderr)
                return 1
            print(reply.data.decode())
            return 0
        print(f"no answer in {TRIES} tries: {problem}", file=sys.stderr)
        return 1
    finally:
        await connection.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
