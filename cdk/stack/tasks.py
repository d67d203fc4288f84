"""Tasks of a role: the container, its permissions, its secret, and how it is rolled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from aws_cdk import Aws, CfnCondition, Duration, Fn, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from cdk.observability.alarms import Alarms
from cdk.stack.network import Network
from cdk.stack.table import may_use_key
from deploy.settings import Settings
from service import HEALTH_PORT
from service.contracts import customer as contract

USER: Final = "10001:10001"


@dataclass(frozen=True)
class Shared:
    """What the roles of a deployment share."""

    settings: Settings
    network: Network
    cluster: ecs.Cluster
    capacity: Construct | None
    """The cluster's capacity providers; a service that uses them must wait for them."""

    image: ecs.ContainerImage
    secret: secretsmanager.ISecret
    removal: RemovalPolicy
    first: CfnCondition
    """True in the deployment that creates the role's service and table."""

    alarms: Alarms


@dataclass(frozen=True)
class Role:
    """What one role of the image needs beyond what every role has."""

    name: str
    cpu: int
    memory: int
    architecture: str
    tasks: int
    """Tasks in the service's first deployment; later ones leave the number to autoscaling, if the role has it."""

    always: int
    """Tasks that never run on Spot."""

    environment: Mapping[str, str]
    statements: Sequence[iam.PolicyStatement] = field(default_factory=tuple)
    """What the role may call in AWS; nothing else is allowed."""

    is_autoscaled: bool = True
    reads_nats: bool = True
    """Whether it gets NATS credentials."""

    security_groups: Sequence[ec2.ISecurityGroup] = ()
    """Groups that let clients in; every task also has the one that lets it out."""


def customer(settings: Settings, table: dynamodb.ITable, adjustments: dynamodb.ITable) -> Role:
    """Return the role `customer`. A transaction requires the permissions of the actions in it.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
    """
    uses = iam.PolicyStatement(
        actions=["dynamodb:BatchGetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"], resources=[table.table_arn]
    )
    adds = iam.PolicyStatement(
        actions=["dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:PutItem"],
        resources=[adjustments.table_arn],
    )
    lists = iam.PolicyStatement(
        actions=["dynamodb:Query"], resources=[f"{adjustments.table_arn}/index/{contract.ADJUSTMENTS_INDEX}"]
    )
    keys = dict.fromkeys(key for key in (settings.existing_table_key, settings.adjustments.existing_table_key) if key)
    return Role(
        "customer",
        cpu=settings.cpu,
        memory=settings.memory,
        architecture=settings.architecture,
        tasks=settings.tasks,
        always=1,
        environment={
            "DDB_TABLE": table.table_name,
            "DDB_KEY": settings.ddb_key,
            "DDB_BALANCE": settings.ddb_balance,
            "ADJUSTMENTS_TABLE": adjustments.table_name,
            "SEED_ROWS": str(settings.seed_rows),
            "MAX_IN_FLIGHT": str(settings.max_in_flight),
        },
        statements=(uses, adds, lists, *(statement for key in keys for statement in may_use_key(key))),
    )


class Tasks(Construct):
    """An ECS service on Fargate, with no load balancer: work arrives over the connections that tasks open.

    A role with a further container adds it to `definition`.
    """

    def __init__(self, scope: Construct, id_: str, shared: Shared, role: Role) -> None:
        super().__init__(scope, id_)
        settings = shared.settings
        self.log_group = logs.LogGroup(
            self, "Log", retention=logs.RetentionDays(_retention(settings.log_days)), removal_policy=shared.removal
        )
        self.definition = _definition(self, role)
        for statement in role.statements:
            self.definition.task_role.add_to_principal_policy(statement)
        self.container = self._container(shared, role)
        self.service = self._service(shared, role)

    def _container(self, shared: Shared, role: Role) -> ecs.ContainerDefinition:
        settings = shared.settings
        container = self.definition.add_container(
            "service",
            image=shared.image,
            command=[role.name],
            environment={**_environment(settings, shared.cluster.env.region), **role.environment},
            secrets={"NATS_CREDENTIALS": ecs.Secret.from_secrets_manager(shared.secret)} if role.reads_nats else {},
            logging=ecs.LogDrivers.aws_logs(log_group=self.log_group, stream_prefix="service"),
            readonly_root_filesystem=not settings.exec,
            user=USER,
            stop_timeout=Duration.seconds(settings.stop_timeout),
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-m", "service.healthcheck"],
                interval=Duration.seconds(10),
                timeout=Duration.seconds(5),
                retries=3,
                start_period=Duration.seconds(60),
            ),
        )
        container.add_port_mappings(ecs.PortMapping(container_port=HEALTH_PORT))
        return container

    def _service(self, shared: Shared, role: Role) -> ecs.FargateService:
        settings, network = shared.settings, shared.network
        service = ecs.FargateService(
            self,
            "Service",
            cluster=shared.cluster,
            task_definition=self.definition,
            vpc_subnets=network.subnets,
            security_groups=[network.security_group, *role.security_groups],
            assign_public_ip=network.public,
            min_healthy_percent=100,
            max_healthy_percent=200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            availability_zone_rebalancing=ecs.AvailabilityZoneRebalancing.ENABLED,
            capacity_provider_strategies=_capacity(settings, role),
            enable_execute_command=settings.exec,
            enable_ecs_managed_tags=True,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
        )
        first = Fn.condition_if(shared.first.logical_id, role.tasks, Aws.NO_VALUE)
        count = first if role.is_autoscaled else role.tasks
        cast("ecs.CfnService", service.node.default_child).add_property_override("DesiredCount", count)
        if shared.capacity:
            service.node.add_dependency(shared.capacity)
        return service


def _definition(scope: Construct, role: Role) -> ecs.FargateTaskDefinition:
    architecture = ecs.CpuArchitecture.ARM64 if role.architecture == "arm64" else ecs.CpuArchitecture.X86_64
    return ecs.FargateTaskDefinition(
        scope,
        "Definition",
        cpu=role.cpu,
        memory_limit_mib=role.memory,
        runtime_platform=ecs.RuntimePlatform(
            cpu_architecture=architecture, operating_system_family=ecs.OperatingSystemFamily.LINUX
        ),
    )


def _environment(settings: Settings, region: str) -> dict[str, str]:
    every = {
        "NATS_URL": settings.nats_url,
        "AWS_REGION": region,
        "HEALTH_PORT": str(HEALTH_PORT),
        "SHUTDOWN_TIMEOUT": str(settings.shutdown_timeout),
        "LOG_FORMAT": "json",
    }
    return {
        **every,
        **({"OTEL_EXPORTER_OTLP_ENDPOINT": settings.tracing_endpoint} if settings.tracing_endpoint else {}),
    }


def _capacity(settings: Settings, role: Role) -> list[ecs.CapacityProviderStrategy] | None:
    """Return the capacity providers with Spot, None without. `always` tasks run on capacity that is never reclaimed."""
    if not settings.spot:
        return None
    return [
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE", base=role.always, weight=0),
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE_SPOT", weight=1),
    ]


def _retention(days: int) -> logs.RetentionDays:
    named = {1: "ONE_DAY", 3: "THREE_DAYS", 5: "FIVE_DAYS", 7: "ONE_WEEK", 14: "TWO_WEEKS", 30: "ONE_MONTH"}
    months = {60: "TWO", 90: "THREE", 120: "FOUR", 150: "FIVE", 180: "SIX"}
    name = named.get(days) or (f"{months[days]}_MONTHS" if days in months else "ONE_YEAR")
    return logs.RetentionDays[name]
