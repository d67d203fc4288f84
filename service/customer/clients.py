"""Look-ups of clients, shared by the endpoints: who asks at the same time shares a BatchGetItem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from service.customer.errors import InternalError, RequestError
from service.customer.lookup import BatchLoader
from service.customer.replies import Sent, reply
from service.customer.request import Request
from service.dynamodb.table import Outcome, Table
from service.runtime.logs import Repeated
from service.runtime.tracing import NoTracing, Tracing

_failed: Final = Repeated(structlog.get_logger("service.customer"), "delivery failed")


@dataclass(frozen=True)
class Answer:
    """How one endpoint answers those that asked it for one client."""

    encode: Callable[[str, Outcome], bytes]
    """A reply's bytes. Raises the `RequestError` that answers instead."""
    sent: Sent | None = None


Waiter = tuple[Answer, Request]


class Clients:
    """A strongly consistent read costs twice as much and cannot share a call with the others: it has batches apart."""

    def __init__(self, table: Table, tracing: NoTracing | Tracing) -> None:
        self._shared = BatchLoader[Waiter](tracing.read(table.read), _deliver)
        self._consistent = BatchLoader[Waiter](tracing.read(partial(table.read, consistent=True)), _deliver)

    def load(self, client_id: str, request: Request, answer: Answer, *, consistent: bool = False) -> None:
        """Look the client up; `answer` is for all its requests of that endpoint."""
        (self._consistent if consistent else self._shared).load(client_id, (answer, request))

    async def drain(self) -> None:
        """Return when every request so far has been answered."""
        await self._shared.drain()
        await self._consistent.drain()


async def _deliver(client_id: str, outcome: Outcome, waiters: Sequence[Waiter]) -> None:
    requests: dict[Answer, list[Request]] = {}
    for answer, request in waiters:
        requests.setdefault(answer, []).append(request)
    for answer, asked in requests.items():
        await reply(client_id, _encoded(answer, client_id, outcome), asked, answer.sent)


def _encoded(answer: Answer, client_id: str, outcome: Outcome) -> bytes | RequestError:
    try:
        return answer.encode(client_id, outcome)
    except RequestError as error:
        return error
    except Exception as error:  # one endpoint's failure is not the other's
        _failed.error(type(error).__name__, client_id=client_id, exc_info=error)
        return InternalError("internal error")
