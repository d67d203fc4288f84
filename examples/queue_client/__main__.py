"""`python -m examples.queue_client`: receives messages, handles them one by one, deletes each; prints JSON lines.

SIDECAR is the sidecar's address (127.0.0.1:50051), POLLINGINTERVAL the seconds to wait after an error (5).

To copy it, see README.md beside it. Put the work into `handle`, and make it repeatable: a message may come twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc

from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub

SIDECAR: Final = os.environ.get("SIDECAR", "127.0.0.1:50051")
POLLING_INTERVAL_S: Final = float(os.environ.get("POLLINGINTERVAL", "5"))
VISIBILITY_S: Final = 30
"""How long a message that this process stops working on stays hidden from others."""
WAIT_S: Final = 5
MESSAGES: Final = 10
CALL_S: Final = 15
ERRORS_MAX: Final = 10


def handle(message: pb.SQSResponseMessage) -> None:
    """Handle one message: put the container's work here.

    Raise to refuse it: it comes again after `VISIBILITY_S`, and in the end it becomes a dead letter.
    """
    say("Handling message", id=message.id, subject=message.subject, body=message.messageBody)


def say(message: str, **fields: Any) -> None:
    print(json.dumps({"message": message, **fields}), flush=True)


class Held:
    """The messages that were received and are not handled yet. While they are held, nobody else receives them."""

    def __init__(self, stub: SQSServiceStub, messages: Sequence[pb.SQSResponseMessage]) -> None:
        self._stub = stub
        self._receipts = {message.id: message.messageID for message in messages}
        self._lock = threading.Lock()
        self._done = threading.Event()

    @contextmanager
    def extended(self) -> Iterator[None]:
        """Extend their visibility in a thread, however long they take."""
        thread = threading.Thread(target=self._extend, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def delete(self, id_: str) -> None:
        """Delete a message that was handled. Raises `grpc.RpcError`."""
        with self._lock:
            request = pb.SQSDeleteMessageRequest(messageID=self._receipts.pop(id_))
            self._stub.DeleteMessage(request, timeout=CALL_S)

    def leave(self, id_: str) -> None:
        """Let a message that was not handled come again after its visibility."""
        with self._lock:
            self._receipts.pop(id_)

    def give_back(self) -> None:
        """Make the messages visible that nobody has worked on."""
        with self._lock:
            self._change(0)
            self._receipts.clear()

    def _extend(self) -> None:
        while not self._done.wait(VISIBILITY_S / 3):
            with self._lock:
                try:
                    self._change(VISIBILITY_S)
                except grpc.RpcError as error:
                    say("Not extended", error=str(error))

    def _change(self, visibility_s: int) -> None:
        ids = list(self._receipts)
        if not ids:
            return
        receipts = [self._receipts[id_] for id_ in ids]
        request = pb.SQSChangeVisibilityRequest(messageIDs=receipts, visibility_timeout=visibility_s)
        results = self._stub.ChangeVisibility(request, timeout=CALL_S).results
        for id_, result in zip(ids, results, strict=True):
            if result.code == 0:
                self._receipts[id_] = result.messageID


def poll(stub: SQSServiceStub, stopping: threading.Event) -> None:
    """Receive messages, and handle and delete one after another. Raises `grpc.RpcError`."""
    request = pb.SQSReceiveMessageRequest(
        visibility_timeout=VISIBILITY_S, wait_time=WAIT_S, maximum_number_of_messages=MESSAGES
    )
    messages = stub.ReceiveMessage(request, timeout=WAIT_S + CALL_S).messages
    if not messages:
        return
    say(f"Received {len(messages)} message(s)")
    held = Held(stub, messages)
    with held.extended():
        for message in messages:
            if stopping.is_set():
                held.give_back()
                return
            try:
                handle(message)
            except Exception as error:  # one bad message must not end the process, nor hold up the others
                say("Not handled", id=message.id, times_received=message.times_received, error=repr(error))
                held.leave(message.id)
                continue
            held.delete(message.id)
            say(f"Message deleted successfully: {message.id}")


def main() -> int:
    """Exit code 0: stopped by SIGTERM, after the message at hand. 1: more errors in a row than it puts up with."""
    argparse.ArgumentParser(prog="python -m examples.queue_client", description=__doc__).parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    errors = 0
    with grpc.insecure_channel(SIDECAR) as channel:
        stub = SQSServiceStub(channel)
        while errors <= ERRORS_MAX and not stopping.is_set():
            try:
                poll(stub, stopping)
                errors = 0
            except grpc.RpcError as error:
                errors += 1
                say("Error", error=str(error.details()), code=error.code().name)
                stopping.wait(POLLING_INTERVAL_S)
    if stopping.is_set():
        return 0
    say("Giving up", sidecar=SIDECAR, help="see that a sidecar listens there: make up QUEUE=1 starts one")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
