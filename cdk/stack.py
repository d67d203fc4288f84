"""The stack: a table, a network, tasks, how they scale, and what operators see."""

from __future__ import annotations

from typing import Any

from aws_cdk import CfnOutput, CfnParameter, RemovalPolicy, Stack, Tags
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk.network import Network
from cdk.observability import Observability
from cdk.scaling import scale
from cdk.settings import SECRET_PARAMETER, Settings
from cdk.tasks import Tasks, customer
from control_plane.aws import secret_name
from service import __version__
from service.customer import contract


class BalanceStack(Stack):
    """Everything of one deployment. The secret is referenced by its complete ARN, never made or read here."""

    def __init__(
        self, scope: Construct, id_: str, settings: Settings, *, image: ecs.ContainerImage, **options: Any
    ) -> None:
        super().__init__(scope, id_, description="Loyalty balances over NATS, from DynamoDB", **options)
        keep = settings.environment == "production"
        removal = RemovalPolicy.RETAIN if keep else RemovalPolicy.DESTROY
        arn = CfnParameter(
            self,
            SECRET_PARAMETER,
            description=f"Complete ARN of the secret {secret_name(settings.initials)}; `make deploy` gives it",
            allowed_pattern=r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:.+-[A-Za-z0-9]{6}",
        )
        secret = secretsmanager.Secret.from_secret_complete_arn(self, "NatsCreds", arn.value_as_string)
        self.table = dynamodb.Table(
            self,
            "Balances",
            table_name=settings.table_name,
            partition_key=dynamodb.Attribute(name=contract.KEY_ATTRIBUTE, type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=removal,
            deletion_protection=keep,
        )
        network = Network(self, "Network", settings, removal)
        tasks = Tasks(
            self, "Tasks", settings, customer(settings),
            network=network, table=self.table, secret=secret, image=image, removal=removal,
        )  # fmt: skip
        seen = Observability(self, "Observability", settings, service=tasks.service, table=self.table)
        scale(tasks.service, settings, seen.in_flight)
        for name, value in tags(settings).items():
            Tags.of(self).add(name, value)
        CfnOutput(self, "TableName", value=self.table.table_name)
        CfnOutput(self, "ClusterName", value=tasks.cluster.cluster_name)
        CfnOutput(self, "ServiceName", value=tasks.service.service_name)
        CfnOutput(self, "LogGroupName", value=tasks.log_group.log_group_name)


def tags(settings: Settings) -> dict[str, str]:
    return {
        "project": "customer-balance",
        "environment": settings.environment,
        "owner": settings.initials,
        "version": __version__,
    }
