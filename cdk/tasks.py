"""The tasks: the container, its permissions, its secret, and how it is rolled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk.network import Network
from cdk.settings import STOP_TIMEOUT_MAX_S, Settings
from service import HEALTH_PORT

USER: Final = "10001:10001"
DRAIN_MARGIN_S: Final = 5


@dataclass(frozen=True)
class Role:
    """What one role of the image needs beyond what every role has."""

    name: str
    environment: Mapping[str, str]
    table_actions: Sequence[str]
    """The DynamoDB actions that it calls, and nothing else."""


def customer(settings: Settings) -> Role:
    return Role(
        "customer",
        {"SEED_ROWS": str(settings.seed_rows), "MAX_IN_FLIGHT": str(settings.max_in_flight)},
        ("dynamodb:BatchGetItem", "dynamodb:PutItem"),
    )


class Tasks(Construct):
    """An ECS service on Fargate, with no load balancer: requests come over the connections that tasks open to NATS."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        settings: Settings,
        role: Role,
        *,
        network: Network,
        table: dynamodb.ITable,
        secret: secretsmanager.ISecret,
        image: ecs.ContainerImage,
        removal: RemovalPolicy,
    ) -> None:
        super().__init__(scope, id_)
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            vpc=network.vpc,
            container_insights_v2=ecs.ContainerInsights.ENHANCED,
            enable_fargate_capacity_providers=settings.spot,
        )
        self.log_group = logs.LogGroup(
            self, "Log", retention=logs.RetentionDays(_retention(settings.log_days)), removal_policy=removal
        )
        self.definition = _definition(self, settings)
        self.definition.task_role.add_to_principal_policy(
            iam.PolicyStatement(actions=list(role.table_actions), resources=[table.table_arn])
        )
        container = self.definition.add_container(
            "service",
            image=image,
            command=[role.name],
            environment={**_environment(settings, table.table_name, self.cluster.env.region), **role.environment},
            secrets={"NATS_CREDENTIALS": ecs.Secret.from_secrets_manager(secret)},
            logging=ecs.LogDrivers.aws_logs(log_group=self.log_group, stream_prefix="service"),
            readonly_root_filesystem=True,
            user=USER,
            stop_timeout=Duration.seconds(min(STOP_TIMEOUT_MAX_S, settings.shutdown_timeout + DRAIN_MARGIN_S)),
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-m", "service.healthcheck"],
                interval=Duration.seconds(10),
                timeout=Duration.seconds(5),
                retries=3,
                start_period=Duration.seconds(60),
            ),
        )
        container.add_port_mappings(ecs.PortMapping(container_port=HEALTH_PORT))
        self.service = ecs.FargateService(
            self,
            "Service",
            cluster=self.cluster,
            task_definition=self.definition,
            desired_count=settings.tasks,
            vpc_subnets=network.subnets,
            security_groups=[network.security_group],
            assign_public_ip=network.public,
            min_healthy_percent=100,
            max_healthy_percent=200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            availability_zone_rebalancing=ecs.AvailabilityZoneRebalancing.ENABLED,
            capacity_provider_strategies=_capacity(settings),
            enable_ecs_managed_tags=True,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
        )


def _definition(scope: Construct, settings: Settings) -> ecs.FargateTaskDefinition:
    architecture = ecs.CpuArchitecture.ARM64 if settings.architecture == "arm64" else ecs.CpuArchitecture.X86_64
    return ecs.FargateTaskDefinition(
        scope,
        "Definition",
        cpu=settings.cpu,
        memory_limit_mib=settings.memory,
        runtime_platform=ecs.RuntimePlatform(
            cpu_architecture=architecture, operating_system_family=ecs.OperatingSystemFamily.LINUX
        ),
    )


def _environment(settings: Settings, table: str, region: str) -> dict[str, str]:
    return {
        "NATS_URL": settings.nats_url,
        "DDB_TABLE": table,
        "AWS_REGION": region,
        "HEALTH_PORT": str(HEALTH_PORT),
        "SHUTDOWN_TIMEOUT": str(settings.shutdown_timeout),
        "LOG_FORMAT": "json",
    }


def _capacity(settings: Settings) -> list[ecs.CapacityProviderStrategy] | None:
    """With Spot, the tasks that must always be there are on capacity that is never taken away."""
    if not settings.spot:
        return None
    return [
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE", base=settings.min_tasks, weight=0),
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE_SPOT", weight=1),
    ]


def _retention(days: int) -> logs.RetentionDays:
    named = {1: "ONE_DAY", 3: "THREE_DAYS", 5: "FIVE_DAYS", 7: "ONE_WEEK", 14: "TWO_WEEKS", 30: "ONE_MONTH"}
    months = {60: "TWO", 90: "THREE", 120: "FOUR", 150: "FIVE", 180: "SIX"}
    name = named.get(days) or (f"{months[days]}_MONTHS" if days in months else "ONE_YEAR")
    return logs.RetentionDays[name]
