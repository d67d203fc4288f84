"""Inspect a table before it is read or written as a whole."""

from __future__ import annotations

from operations.scan import call
from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import DynamoDBError
from service.runtime.errors import ServiceError


async def table_id(api: DynamoDB, table: str, key: str) -> str:
    """Return the table's id, which no other table ever had; '' without permission to describe the table.

    Raises `ServiceError` if there is no such table, or its only key is not the string `key`.
    """
    try:
        described = (await call(api, "DescribeTable", {"TableName": table}, table, "DDB_TABLE"))["Table"]
    except ServiceError as error:
        cause = error.__cause__
        if isinstance(cause, DynamoDBError) and cause.code == "AccessDeniedException":
            return ""
        raise
    types = {each["AttributeName"]: each["AttributeType"] for each in described["AttributeDefinitions"]}
    keys = [(each["AttributeName"], types[each["AttributeName"]]) for each in described["KeySchema"]]
    if keys != [(key, "S")]:
        shown = ", ".join(f"{name} ({kind})" for name, kind in keys)
        raise ServiceError(
            f"table {table} has the key {shown}, and must have the one key {key} (S)", "correct DDB_TABLE or DDB_KEY"
        )
    return str(described.get("TableId", ""))
