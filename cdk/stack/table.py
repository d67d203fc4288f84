"""A table of the stack, or one that exists already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from aws_cdk import Aws, CfnCondition, Fn, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy.settings import Settings

KEY_ACTIONS: Final = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html"""


def make_table(
    scope: Construct,
    id_: str,
    settings: Settings,
    *,
    name: str,
    existing: bool,
    keys: Sequence[str],
    removal: RemovalPolicy,
    first: CfnCondition,
    expires: str | None = None,
    index: tuple[str, str] | None = None,
) -> dynamodb.ITable:
    """Return a table. `keys` are strings: the partition key and, if any, the sort key. `expires` is the TTL attribute.

    `index`: name of a local secondary index of all attributes, and its sort key, a number.
    """
    if existing:
        return dynamodb.Table.from_table_name(scope, id_, name)
    partition, *sort = [dynamodb.Attribute(name=key, type=dynamodb.AttributeType.STRING) for key in keys]
    table = dynamodb.Table(
        scope,
        id_,
        table_name=name,
        partition_key=partition,
        sort_key=sort[0] if sort else None,
        billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        time_to_live_attribute=expires,
        removal_policy=removal,
    )
    if index:
        by = dynamodb.Attribute(name=index[1], type=dynamodb.AttributeType.NUMBER)
        table.add_local_secondary_index(index_name=index[0], sort_key=by)
    if settings.environment == "production":
        # A protected table would survive a failed first deployment, and block the next one.
        resource = cast("dynamodb.CfnTable", table.node.default_child)
        resource.add_property_override("DeletionProtectionEnabled", Fn.condition_if(first.logical_id, False, True))
    return table


def may_use_key(key_arn: str) -> tuple[iam.PolicyStatement, ...]:
    """Let the role use this customer managed key for its table and nothing else."""
    if not key_arn:
        return ()
    via = {"StringEquals": {"kms:ViaService": f"dynamodb.{Aws.REGION}.{Aws.URL_SUFFIX}"}}
    return (iam.PolicyStatement(actions=list(KEY_ACTIONS), resources=[key_arn], conditions=via),)
