"""The local DynamoDB: an engine from npm (native, backed by SQLite, verified against AWS), and the tables in it.

Where npm has no engine for the platform, `local.servers.engine` chooses another.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from local.process import Child, LocalError, running
from local.servers.engine import FILE, binary, engine
from service.contracts import customer as contract

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        AttributeDefinitionTypeDef,
        KeySchemaElementTypeDef,
        LocalSecondaryIndexTypeDef,
    )

REGION: Final = "eu-west-1"
KEYS: Final = (contract.KEY_ATTRIBUTE,)
PAGE_ROWS: Final = 5_000
"""Most rows of a scan's page. Without a limit, the engine reads all that is left of the table for each page."""
_AT_ONCE: Final = 25
"""Rows of a BatchWriteItem."""


class Definition(TypedDict):
    TableName: str
    AttributeDefinitions: list[AttributeDefinitionTypeDef]
    KeySchema: list[KeySchemaElementTypeDef]
    LocalSecondaryIndexes: NotRequired[list[LocalSecondaryIndexTypeDef]]


def environment(port: int) -> dict[str, str]:
    """Return the environment with which an AWS SDK reaches the engine; it accepts any credentials."""
    return {
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }


@asynccontextmanager
async def dynamodb(folder: Path, port: int, *, in_memory: bool = False) -> AsyncIterator[Child]:
    """Run this machine's engine on `port` with its file in `folder`, which is kept, or `in_memory` (moto's always is).

    npm's gets one worker thread: more would spin on the database's lock, at nearly twice the CPU per key.
    """
    command = (await asyncio.to_thread(engine)).command(None if in_memory else folder, port)
    env = {**os.environ, "TOKIO_WORKER_THREADS": "1"}
    async with running("dynamodb", command, folder / "dynamodb.log", env) as child:
        await child.until(lambda: _answers(port))
        yield child


async def _answers(port: int) -> bool:
    """Return whether HTTP is answered there: Docker's proxy accepts connections before the engine does."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read(1)
    except OSError:
        return False
    writer.close()
    return bool(answer)


async def imported(balances: Mapping[str, int], table: str, folder: Path) -> None:
    """Create the engine's file in `folder` with one table of these rows: much faster than writing each.

    It imports the format of DynamoDB's exports:
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html
    """
    data = folder / "export" / table / "data"
    data.mkdir(parents=True)
    schema = {"Table": {**_definition(table), "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"}}}
    (folder / "schema.json").write_text(json.dumps(schema))
    with gzip.open(data / "rows.json.gz", "wt", compresslevel=1) as file:
        for client_id, balance in balances.items():
            item = {contract.KEY_ATTRIBUTE: {"S": client_id}, contract.BALANCE_ATTRIBUTE: {"N": str(balance)}}
            file.write(json.dumps({"Item": item}) + "\n")
    command = [
        str(binary()), "import", "--source", str(folder / "export"), "--schema", str(folder / "schema.json"),
        "--output", str(folder / FILE),
    ]  # fmt: skip
    async with running("dynamodb import", command, folder / "import.log") as child:
        if await child.wait():
            raise LocalError(f"the rows could not be imported: {child.last_words()}")


async def create_table(name: str, env: Mapping[str, str], keys: Sequence[str] = KEYS) -> bool:
    """Create the table unless it exists; return whether it was created. Partition and sort key are strings."""
    return await asyncio.to_thread(_create_table, _definition(name, keys), env)


async def create_adjustments(name: str, env: Mapping[str, str]) -> None:
    """Make the table of adjustments, with its index, unless it is there."""
    await asyncio.to_thread(_create_table, adjustments_definition(name), env)


def adjustments_definition(name: str) -> Definition:
    keys = (contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_SORT_KEY)
    table = _definition(name, keys)
    table["AttributeDefinitions"].append({"AttributeName": contract.ADJUSTMENTS_INDEX_KEY, "AttributeType": "N"})
    by_sequence = _key_schema((contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_INDEX_KEY))
    table["LocalSecondaryIndexes"] = [
        {"IndexName": contract.ADJUSTMENTS_INDEX, "KeySchema": by_sequence, "Projection": {"ProjectionType": "ALL"}}
    ]
    return table


def put_balances(balances: Mapping[str, int], table: str, env: Mapping[str, str]) -> None:
    """Write a row for each client id."""
    items = [{contract.KEY_ATTRIBUTE: {"S": each}, contract.BALANCE_ATTRIBUTE: {"N": str(balance)}}
             for each, balance in balances.items()]  # fmt: skip
    for first in range(0, len(items), _AT_ONCE):
        client(env).batch_write_item(
            RequestItems={table: [{"PutRequest": {"Item": item}} for item in items[first : first + _AT_ONCE]]}
        )


def rows(table: str, env: Mapping[str, str]) -> dict[str, int]:
    """Return client id -> balance, for every row of a local table."""
    return scan(client(env), table)


def scan(engine: DynamoDBClient, table: str, attributes: contract.Attributes = contract.ATTRIBUTES) -> dict[str, int]:
    """Return client id -> balance, for every row of the table."""
    return {item[attributes.key]["S"]: int(item[attributes.balance]["N"]) for item in items(engine, table)}


def items(engine: DynamoDBClient, table: str) -> Iterator[Mapping[str, Any]]:
    """Yield every row of the table, each attribute as DynamoDB has it."""
    for page in engine.get_paginator("scan").paginate(TableName=table, PaginationConfig={"PageSize": PAGE_ROWS}):
        yield from page["Items"]


def client(env: Mapping[str, str]) -> DynamoDBClient:
    """Return boto3's client, configured by `env` only: it ignores this shell's profile and proxy."""
    return _client(
        env["AWS_REGION"],
        env["AWS_ENDPOINT_URL_DYNAMODB"],
        env["AWS_ACCESS_KEY_ID"],
        env["AWS_SECRET_ACCESS_KEY"],
    )


@functools.cache
def _client(region: str, endpoint: str, access_key: str, secret_key: str) -> DynamoDBClient:
    """Make one client per endpoint: reading botocore's models takes a tenth of a second."""
    ignored = (None, None, os.devnull, None)
    core = Session(
        session_vars={"profile": (None, None, None, None), "config_file": ignored, "credentials_file": ignored}
    )
    return boto3.Session(botocore_session=core).client(
        "dynamodb",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(proxies={}),
    )


def _definition(table: str, keys: Sequence[str] = KEYS) -> Definition:
    return {
        "TableName": table,
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in keys],
        "KeySchema": _key_schema(keys),
    }


def _key_schema(keys: Sequence[str]) -> list[KeySchemaElementTypeDef]:
    return [{"AttributeName": key, "KeyType": "RANGE" if number else "HASH"} for number, key in enumerate(keys)]


def _create_table(table: Definition, env: Mapping[str, str]) -> bool:
    engine = client(env)
    made = True
    try:
        engine.create_table(**table, BillingMode="PAY_PER_REQUEST")
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUseException":
            raise
        made = False
    engine.get_waiter("table_exists").wait(TableName=table["TableName"], WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    return made
