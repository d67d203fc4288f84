"""`python -m operations.history TABLE CLIENT_ID`: show a client's archived events, newest first."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from base64 import b64encode
from decimal import Decimal
from typing import Any, Final

import boto3
from boto3.dynamodb.conditions import Key
from boto3.dynamodb.types import Binary
from botocore.exceptions import BotoCoreError, ClientError

from service.contracts.archive import PARTITION_KEY, SORT_KEY
from service.runtime.aws import aws_session

PAGE: Final = 20
COLUMNS: Final = ("event_time", "balance", "sequence", "host", "body")
_sort_key: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z(#.*)?").fullmatch


def page(table: Any, client_id: str, limit: int, before: str = "") -> tuple[list[dict[str, Any]], bool]:
    """Return up to `limit` rows, newest first, older than the sort key `before`; and whether there may be more.

    DynamoDB also ends a page after 1 MB:
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html
    """
    condition: Any = Key(PARTITION_KEY).eq(client_id)
    if before:
        condition &= Key(SORT_KEY).lt(before)
    answer = table.query(KeyConditionExpression=condition, ScanIndexForward=False, Limit=limit)
    return list(answer["Items"]), "LastEvaluatedKey" in answer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m operations.history", description=__doc__)
    parser.add_argument("table")
    parser.add_argument("client_id")
    parser.add_argument("--limit", type=_positive, default=PAGE, help=f"rows of a page ({PAGE})")
    parser.add_argument(
        "--before", type=_event, default="", help="continue after this `event`, the last one of the previous page"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON per row; binary values in base64")
    arguments = parser.parse_args()
    try:
        table = boto3.Session(botocore_session=aws_session()).resource("dynamodb").Table(arguments.table)
        rows, more = page(table, arguments.client_id, arguments.limit, arguments.before)
    except (BotoCoreError, ClientError, ValueError) as error:
        if "key schema" in str(error):
            said = f"table {arguments.table} does not have the keys {PARTITION_KEY}, {SORT_KEY}; give the archive's"
            print(f"error: {said}", file=sys.stderr)
            return 1
        print(f"error: {error}; see the table's name, AWS_REGION and the AWS credentials", file=sys.stderr)
        return 1
    if arguments.json:
        for row in rows:
            print(json.dumps(row, default=_plain, ensure_ascii=False))
        return 0
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]:
        cells = zip(COLUMNS, (30, 10, 10, 24, 0), strict=True)
        print("  ".join(f"{_printable(row.get(name, '-')):<{width}}" for name, width in cells))
    if more and rows:
        print(f"older: --before '{rows[-1][SORT_KEY]}'")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _event(text: str) -> str:
    if text and not _sort_key(text):
        raise argparse.ArgumentTypeError("an event as it was shown, or its time")
    return text


def _plain(value: object) -> int | float | str:
    """Convert to JSON: whole numbers exactly, others as doubles, binary values as base64."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return _text(value)


def _text(value: object) -> str:
    return b64encode(value.__bytes__()).decode() if isinstance(value, Binary) else str(value)  # type: ignore[arg-type]


def _printable(value: object) -> str:
    """Escape control characters, so that no event can send an escape sequence to the terminal."""
    text = _text(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly with `| head`
    sys.exit(main())
