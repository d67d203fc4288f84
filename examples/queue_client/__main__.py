"""`python -m examples.queue_client`: polls, handles, deletes; a JSON line for each step.

SIDECAR is the sidecar's address (127.0.0.1:50051), POLLINGINTERVAL the seconds between two polls (5).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, Final

import grpc

from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub

SIDECAR: Final = os.environ.get("SIDECAR", "127.0.0.1:50051")
POLLING_INTERVAL_S: Final = float(os.environ.get("POLLINGINTERVAL", "5"))
VISIBILITY_S: Final = 5
WAIT_S: Final = 5
MESSAGES: Final = 5
ERRORS_MAX: Final = 10


def say(message: str, **fields: Any) -> None:
    print(json.dumps({"message": message, **fields}), flush=True)


def handle(message: pb.SQSResponseMessage) -> None:
    """Handle one message: put the container's work here."""
    say("Handling message", id=message.id, subject=message.subject, body=message.messageBody)


def poll(stub: SQSServiceStub) -> None:
    request = pb.SQSReceiveMessageRequest(
        visibility_timeout=VISIBILITY_S, wait_time=WAIT_S, maximum_number_of_messages=MESSAGES
    )
    messages = stub.ReceiveMessage(request).messages
    say(f"Received {len(messages)} message(s)")
    for message in messages:
        handle(message)
        say(f"Deleting message {message.messageID}")
        stub.DeleteMessage(pb.SQSDeleteMessageRequest(messageID=message.messageID))
        say(f"Message deleted successfully: {message.messageID}")


def main() -> int:
    """Exit code 1 after more errors in a row than it puts up with."""
    argparse.ArgumentParser(prog="python -m examples.queue_client", description=__doc__).parse_args()
    count = errors = 0
    with grpc.insecure_channel(SIDECAR) as channel:
        stub = SQSServiceStub(channel)
        while errors <= ERRORS_MAX:
            count += 1
            say(f"Polling count: {count}")
            try:
                poll(stub)
                errors = 0
            except grpc.RpcError as error:
                errors += 1
                say("Error", error=str(error.details()), code=error.code().name)
            time.sleep(POLLING_INTERVAL_S)
    say("Giving up", sidecar=SIDECAR, help="see that a sidecar listens there: make up QUEUE=1 starts one")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
