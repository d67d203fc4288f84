"""`python -m service.archive.history TABLE CLIENT_ID`: a client's archived events, newest first."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Final

import boto3
import orjson
from boto3.dynamodb.conditions import Key
from botocore.exceptions import BotoCoreError, ClientError

from service.archive.contract import PARTITION_KEY, SORT_KEY

PAGE: Final = 20
COLUMNS: Final = ("event_time", "balance", "sequence", "host", "body")


def page(table: Any, client_id: str, limit: int, before: str = "") -> list[dict[str, Any]]:
    """Up to `limit` rows, newest first, older than the sort key `before`."""
    condition: Any = Key(PARTITION_KEY).eq(client_id)
    if before:
        condition &= Key(SORT_KEY).lt(before)
    answer = table.query(KeyConditionExpression=condition, ScanIndexForward=False, Limit=limit)
    return list(answer["Items"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m service.archive.history", description=__doc__)
    parser.add_argument("table")
    parser.add_argument("client_id")
    parser.add_argument("--limit", type=int, default=PAGE, help=f"rows of a page ({PAGE})")
    parser.add_argument("--before", default="", help="go on behind this `event`, the last one of the page before")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    arguments = parser.parse_args()
    try:
        table = boto3.resource("dynamodb", region_name=os.environ.get("AWS_REGION")).Table(arguments.table)
        rows = page(table, arguments.client_id, arguments.limit, arguments.before)
    except (BotoCoreError, ClientError) as error:
        print(f"error: {error}; see the table's name, AWS_REGION and the AWS credentials", file=sys.stderr)
        return 1
    if arguments.json:
        for row in rows:
            print(orjson.dumps(row, default=str).decode())
        return 0
    for row in [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]:
        print(
            "  ".join(
                f"{row.get(name, '-')!s:<{width}}" for name, width in zip(COLUMNS, (30, 10, 10, 24, 0), strict=True)
            )
        )
    if len(rows) == arguments.limit:
        print(f"older: --before '{rows[-1][SORT_KEY]}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
