"""A DynamoDB engine from npm: native, SQLite-backed, checked against AWS. And the table in it."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
from botocore.exceptions import ClientError

from local.process import Child, LocalError, accepts, running
from service import contract

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

REGION: Final = "eu-west-1"
_MODULES: Final = Path(__file__).parent / "node_modules" / "@dynoxide"


def binary() -> Path:
    """The engine for this platform.

    Raises `LocalError` when npm has not installed one.
    """
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    package = f"{platform.system().lower()}-{machine or platform.machine()}"
    found = _MODULES / package / "dynoxide"
    if not found.exists():
        raise LocalError(
            f"no DynamoDB engine in {_MODULES}; install Node 20 or newer and run `make setup`, or, where that "
            f"brings none, `npm install --prefix local --no-save @dynoxide/{package}`"
        )
    return found


def environment(port: int) -> dict[str, str]:
    """What an AWS SDK needs to reach the engine; it takes any credentials."""
    return {
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }


@asynccontextmanager
async def dynamodb(folder: Path, port: int) -> AsyncIterator[Child]:
    """Run the engine on `port`; its file lives in `folder`, and survives it."""
    command = [str(binary()), "serve", "--port", str(port), "--db-path", str(folder / "dynamodb.sqlite")]
    async with running("dynamodb", command, folder / "dynamodb.log") as child:
        await child.until(lambda: accepts(port))
        yield child


async def create_table(name: str, env: Mapping[str, str]) -> None:
    """Make the table, unless it is there."""
    await asyncio.to_thread(_create_table, name, env)


def rows(table: str, env: Mapping[str, str]) -> dict[str, int]:
    """Every balance in the table, by client id."""
    pages = client(env).get_paginator("scan").paginate(TableName=table)
    return {
        item[contract.KEY_ATTRIBUTE]["S"]: int(item[contract.BALANCE_ATTRIBUTE]["N"])
        for page in pages
        for item in page["Items"]
    }


def client(env: Mapping[str, str]) -> DynamoDBClient:
    """boto3's client, configured by `env` alone."""
    return boto3.client(
        "dynamodb",
        region_name=env["AWS_REGION"],
        endpoint_url=env["AWS_ENDPOINT_URL_DYNAMODB"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )


def _create_table(name: str, env: Mapping[str, str]) -> None:
    engine = client(env)
    try:
        engine.create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": contract.KEY_ATTRIBUTE, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": contract.KEY_ATTRIBUTE, "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUseException":
            raise
    engine.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
