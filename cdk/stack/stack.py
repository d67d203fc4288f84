"""The stack: tables, a network, tasks of each role, how they scale, and what operators see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aws_cdk import Aws, CfnCondition, CfnOutput, CfnParameter, Fn, RemovalPolicy, Stack, Tags
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk.observability.alarms import Alarms
from cdk.observability.dashboard import Observability
from cdk.parameters import (
    ARCHIVE_FIRST_PARAMETER,
    DEVICES_FIRST_PARAMETER,
    FIRST_PARAMETER,
    SECRET_PARAMETERS,
    firsts,
)
from cdk.stack.archive import Archive
from cdk.stack.devices import Devices
from cdk.stack.network import Network
from cdk.stack.queue import Queue
from cdk.stack.scaling import scale
from cdk.stack.table import make_table
from cdk.stack.tasks import Shared, Tasks, customer
from control_plane.aws import secret_name
from deploy.settings import Settings
from service import __version__
from service.contracts import archive as archive_contract
from service.contracts import customer as contract
from service.contracts import devices as devices_contract
from service.contracts import queue as queue_contract


class BalanceStack(Stack):
    """All resources of one deployment. A secret is referenced by its complete ARN, never created or read here."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        settings: Settings,
        *,
        image: ecs.ContainerImage,
        queue_image: ecs.ContainerImage | None = None,
        **options: Any,
    ) -> None:
        """`queue_image`: for the architecture of [queue], if that is a different one."""
        super().__init__(scope, id_, description="Loyalty balances over NATS, from DynamoDB", **options)
        keep = settings.environment == "production"
        removal = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if keep else RemovalPolicy.DESTROY
        alarms = Alarms.of(self, settings)
        network = Network(self, "Network", settings, removal)
        cluster = ecs.Cluster(self, "Cluster", vpc=network.vpc, container_insights_v2=ecs.ContainerInsights.DISABLED)
        shared = Shared(
            settings=settings,
            network=network,
            cluster=cluster,
            capacity=_capacity(cluster) if settings.spot else None,
            image=image,
            secret=self._secret(settings),
            removal=removal,
            first=self._first(FIRST_PARAMETER, "First"),
            alarms=alarms,
        )
        table = make_table(
            self, "Balances", settings, name=settings.table_name, existing=bool(settings.existing_table),
            keys=[settings.ddb_key], removal=removal, first=shared.first,
        )  # fmt: skip
        adjustments = make_table(
            self, "Adjustments", settings, name=settings.adjustments_table_name,
            existing=bool(settings.adjustments.existing_table),
            keys=(contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_SORT_KEY), removal=removal,
            first=shared.first, index=(contract.ADJUSTMENTS_INDEX, contract.ADJUSTMENTS_INDEX_KEY),
        )  # fmt: skip
        tasks = Tasks(self, "Tasks", shared, customer(settings, table, adjustments))
        seen = Observability(self, "Observability", alarms, service=tasks.service, table=table)
        scale(tasks.service, settings, seen)
        if settings.archive.enabled:
            its_own = self._secret(settings, archive_contract.USER)
            its_first = self._first(ARCHIVE_FIRST_PARAMETER, "ArchiveFirst")
            Archive(self, "Archive", replace(shared, secret=its_own, first=its_first))
        if settings.queue.enabled:
            with_queue = replace(shared, image=queue_image or image)
            if settings.queue.source == "jetstream":
                with_queue = replace(with_queue, secret=self._secret(settings, queue_contract.USER))
            Queue(self, "Queue", with_queue)
        if settings.devices.enabled:
            its_own = self._secret(settings, devices_contract.USER)
            if DEVICES_FIRST_PARAMETER in firsts(settings):
                shared = replace(shared, first=self._first(DEVICES_FIRST_PARAMETER, "DevicesFirst"))
            Devices(self, "Devices", replace(shared, secret=its_own))
        _trust_this_account(self)
        for name, value in tags(settings).items():
            Tags.of(self).add(name, value)
        CfnOutput(self, "TableName", value=table.table_name)
        CfnOutput(self, "ClusterName", value=cluster.cluster_name)
        CfnOutput(self, "ServiceName", value=tasks.service.service_name)
        CfnOutput(self, "LogGroupName", value=tasks.log_group.log_group_name)

    def _first(self, name: str, condition: str) -> CfnCondition:
        parameter = CfnParameter(
            self,
            name,
            default="no",  # a deployment without our command leaves protection and number of tasks unchanged
            allowed_values=["yes", "no"],
            description="Whether this deployment makes the service; it alone sets the number of tasks",
        )
        return CfnCondition(self, condition, expression=Fn.condition_equals(parameter.value_as_string, "yes"))

    def _secret(self, settings: Settings, user: str = "") -> secretsmanager.ISecret:
        arn = CfnParameter(
            self,
            SECRET_PARAMETERS[user],
            description=f"Complete ARN of the secret {secret_name(settings.initials, user)}; `make deploy` gives it",
            allowed_pattern=r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:.+-[A-Za-z0-9]{6}",
        )
        return secretsmanager.Secret.from_secret_complete_arn(self, f"{user.title()}NatsCreds", arn.value_as_string)


def _capacity(cluster: ecs.Cluster) -> Construct:
    return ecs.CfnClusterCapacityProviderAssociations(
        cluster,
        "Capacity",
        cluster=cluster.cluster_name,
        capacity_providers=["FARGATE", "FARGATE_SPOT"],
        default_capacity_provider_strategy=[],
    )


def _trust_this_account(stack: Stack) -> None:
    """Let AWS services assume the stack's roles only on behalf of this account.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html
    """
    for made in stack.node.find_all():
        if isinstance(made, iam.CfnRole):
            condition = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            made.add_property_override("AssumeRolePolicyDocument.Statement.0.Condition", condition)


def tags(settings: Settings) -> dict[str, str]:
    return {
        "project": "customer-balance",
        "environment": settings.environment,
        "owner": settings.initials,
        "version": __version__,
    }
