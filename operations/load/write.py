"""Write rows, each under its own condition, 25 in a call (docs/adr/0016-adjustments.md explains why in PartiQL).

| statement | condition | when it fails, the row |
| --- | --- | --- |
| INSERT | no row has the key (DynamoDB's rule) | exists already |
| UPDATE, with --replace | it has no adjustments | is missing, or has adjustments |

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ql-reference.multiplestatements.batching.html
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from operations.load.lines import Client
from operations.load.pace import Pace
from service.contracts import customer as contract
from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import DynamoDBError, InvalidResponse, is_retryable, reason
from service.dynamodb.explain import explain
from service.runtime.errors import ServiceError

CALL_TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 60.0
"""If no row at all is written for this long, the load ends; it can be resumed later."""
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 5.0
_THERE: Final = "DuplicateItem"
_FAILED: Final = "ConditionalCheckFailed"
_BUSY: Final = frozenset({"ProvisionedThroughputExceeded", "RequestLimitExceeded", "ThrottlingError"})
_PASSES: Final = _BUSY | {"InternalServerError", "TransactionConflict"}
"""Codes of a statement that may succeed later; a conflict is with an adjustment.

https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchStatementError.html
"""


@dataclass(slots=True)
class Result:
    written: int = 0
    there: int = 0
    """Rows that existed already, or were written by a call whose answer was lost."""
    refused: list[int] = field(default_factory=list)
    """Lines of clients with adjustments, which are not replaced."""


@dataclass(slots=True)
class _Row:
    line: int
    client: Client
    inserts: bool
    """True if the next attempt is an INSERT."""
    is_there: bool = False


class Writer:
    def __init__(self, api: DynamoDB, table: str, attributes: contract.Attributes, *, replace: bool) -> None:
        self._api = api
        self._table = table
        self._key = attributes.key
        self._replace = replace
        self._inserts = True
        """True if a row is tried with INSERT first: whatever the last rows needed."""
        self._statements = {
            (name, created): _statements(table, attributes, name=name, created=created)
            for name in (False, True) for created in (False, True)
        }  # fmt: skip
        self.pace = Pace()
        self.lost = 0
        """Calls without an answer."""

    async def write(self, clients: Sequence[tuple[int, Client]]) -> Result:
        """Write up to 25 rows of different clients. Raises `ServiceError` if DynamoDB refuses, or does not answer."""
        result, failures, began_s = Result(), 0, time.monotonic()
        left = [_Row(line, client, self._inserts) for line, client in clients]
        while left:
            try:
                async with self.pace:
                    answers = await self._call(left)
            except Exception as error:
                self._note(error)
                problem = reason(error)
            else:
                left = [row for row, answer in zip(left, answers, strict=True) if self._is_left(row, answer, result)]
                codes = {_code(answer) for answer in answers}
                if codes - _PASSES:
                    self.pace.went_well()
                    failures = 0
                if not codes & _PASSES:
                    continue
                problem = "it is busy"
            failures += 1
            if time.monotonic() - max(began_s, self.pace.wrote_s) > PATIENCE_S:
                raise ServiceError(
                    f"table {self._table}: no row was written for {PATIENCE_S:g} seconds ({problem})",
                    "see the table's throttles, the state of AWS and the network",
                )
            await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(failures, 10)) * random.random())
        return result

    def _note(self, error: Exception) -> None:
        """Record the failure of a call. Raises `ServiceError` if it is permanent."""
        if not is_retryable(error):
            raise self._explained(error) from error
        if isinstance(error, DynamoDBError) and error.throttled:
            self.pace.is_busy()
        elif not isinstance(error, DynamoDBError) or error.status >= 500:
            self.lost += 1

    def _is_left(self, row: _Row, answer: Any, result: Result) -> bool:
        """Record the answer to a row's statement; return whether the row must still be written."""
        code = _code(answer)
        if not code:
            result.written += 1
            self._inserts = row.inserts
        elif code == _THERE and not self._replace:
            result.there += 1
        elif code == _THERE:
            row.inserts, row.is_there = False, True
            return True
        elif code == _FAILED and row.is_there:
            result.refused.append(row.line)
        elif code == _FAILED:
            row.inserts = True
            return True
        elif code in _PASSES:
            if code in _BUSY:
                self.pace.is_busy()
            return True
        else:
            message = answer["Error"].get("Message", "") if isinstance(answer, dict) else ""
            raise self._explained(DynamoDBError(400, f"{code}Exception", f"line {row.line}: {message}"))
        return False

    async def _call(self, rows: Sequence[_Row]) -> Sequence[Any]:
        body = b'{"Statements":[%b]}' % b",".join([self._statement(row) for row in rows])
        answer = await self._api.call("BatchExecuteStatement", body, again=False)
        answers = answer.get("Responses")
        if type(answers) is not list or len(answers) != len(rows):
            self._api.distrust()
            raise InvalidResponse("a response without an answer to each statement")
        return answers

    def _statement(self, row: _Row) -> bytes:
        client = row.client
        insert, update = self._statements[client.name is not None, client.created_at is not None]
        texts = b"".join([b'{"S":%b},' % orjson.dumps(text) for text in client[2:] if text is not None])
        key, balance = orjson.dumps(client.client_id), client.balance
        if row.inserts:
            return b'%b{"N":"%d"},%b{"S":%b}]}' % (insert, balance, texts, key)
        return b'%b{"N":"%d"},%b{"S":%b}]}' % (update, balance, texts, key)

    def _explained(self, error: Exception) -> ServiceError:
        return explain(error, self._table, "DDB_TABLE", f"see that its one key is a string named {self._key}")


def _code(answer: Any) -> str:
    try:
        return str(answer["Error"]["Code"]) if "Error" in answer else ""
    except (KeyError, TypeError):
        return "InternalServerError"


def _statements(table: str, attributes: contract.Attributes, *, name: bool, created: bool) -> tuple[bytes, bytes]:
    """Return the start of an INSERT and of an UPDATE; the parameters are, in order, balance, texts, key."""
    texts = [contract.NAME_ATTRIBUTE] * name + [contract.CREATED_AT_ATTRIBUTE] * created
    values = ", ".join(f"'{attribute}': ?" for attribute in (attributes.balance, *texts, attributes.key))
    sets = ", ".join(f'"{attribute}" = ?' for attribute in (attributes.balance, *texts))
    insert = f'INSERT INTO "{table}" VALUE {{{values}}}'
    update = f'UPDATE "{table}" SET {sets} WHERE "{attributes.key}" = ? AND "{contract.COUNT_ATTRIBUTE}" IS MISSING'  # noqa: S608
    return tuple(b'{"Statement":%b,"Parameters":[' % orjson.dumps(text) for text in (insert, update))  # type: ignore[return-value]
