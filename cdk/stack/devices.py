"""Readings and presence of MQTT devices: a table, tasks, and their gRPC API for clients that the settings name
(docs/adr/0017-devices.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

from cdk.observability.alarms import AT_LEAST, BELOW, Alarms
from cdk.observability.metrics import own, running_tasks
from cdk.stack.network import Network
from cdk.stack.table import make_table, may_use_key
from cdk.stack.tasks import Role, Shared, Tasks
from deploy.sections import DevicesSection
from deploy.settings import Settings
from service.contracts import devices as contract

PORT: Final = int(contract.LISTEN.rpartition(":")[2])
NAME_TTL: Final = Duration.seconds(10)

NO_TASK_MINUTES: Final = 5
WAITING_S: Final = 300
WAITING_MINUTES: Final = 5
UNREPORTED_S: Final = 600
UNREPORTED_MINUTES: Final = 5
SILENT_MINUTES: Final = 3
"""In addition to those of the settings, so that a single report raises no alarm."""


class Devices(Construct):
    """The role `devices`. No autoscaling: one task serves thousands of devices; the second takes over if it ends."""

    def __init__(self, scope: Construct, id_: str, shared: Shared) -> None:
        super().__init__(scope, id_)
        settings, section = shared.settings, shared.settings.devices
        self.table = make_table(
            self,
            "Readings",
            settings,
            name=settings.readings_table_name,
            existing=bool(section.existing_table),
            keys=(contract.PARTITION_KEY, contract.SORT_KEY),
            removal=shared.removal,
            first=shared.first,
            expires=contract.TTL_ATTRIBUTE if section.retention_days else None,
        )
        let_in = [_clients(self, shared.network, section.clients)] if section.clients else []
        self.tasks = Tasks(self, "Tasks", shared, _role(settings, self.table, let_in))
        if section.clients:
            self._serve(shared, section)
        if section.webhook_secret:
            self._report(section)
        self._alarms(shared.alarms)
        stack = Stack.of(self)
        CfnOutput(stack, "DevicesTableName", value=self.table.table_name)
        CfnOutput(stack, "DevicesServiceName", value=self.tasks.service.service_name)
        CfnOutput(stack, "DevicesLogGroupName", value=self.tasks.log_group.log_group_name)

    def _serve(self, shared: Shared, section: DevicesSection) -> None:
        """Serve gRPC to the clients, under one name for all tasks."""
        container = self.tasks.container
        container.add_port_mappings(ecs.PortMapping(container_port=PORT))
        container.add_environment("DEVICES_LISTEN", f"0.0.0.0:{PORT}")
        secret = secretsmanager.Secret.from_secret_complete_arn(self, "Tls", section.tls_secret)
        for key in ("certificate", "key", "client_ca"):
            container.add_secret(f"DEVICES_{key.upper()}", ecs.Secret.from_secrets_manager(secret, key))
        names = servicediscovery.PrivateDnsNamespace(
            self, "Names", name=f"{shared.settings.stack_name.lower()}.internal", vpc=shared.network.vpc
        )
        self.tasks.service.enable_cloud_map(
            cloud_map_namespace=names,
            name=contract.SERVICE_NAME,
            dns_record_type=servicediscovery.DnsRecordType.A,
            dns_ttl=NAME_TTL,
        )
        address = f"{contract.SERVICE_NAME}.{names.namespace_name}:{PORT}"
        CfnOutput(Stack.of(self), "DevicesAddress", value=address)

    def _report(self, section: DevicesSection) -> None:
        container = self.tasks.container
        secret = secretsmanager.Secret.from_secret_complete_arn(self, "Webhook", section.webhook_secret)
        container.add_environment("OUTAGE_FORM", section.webhook_form)
        container.add_secret("OUTAGE_WEBHOOK", ecs.Secret.from_secrets_manager(secret, "url"))
        if section.webhook_form == "groupme":
            container.add_secret("OUTAGE_BOT_ID", ecs.Secret.from_secrets_manager(secret, "bot_id"))

    def _alarms(self, alarms: Alarms) -> None:
        section, table = alarms.settings.devices, alarms.settings.readings_table_name
        alarms.make(
            self, "DevicesNoTask", running_tasks(self.tasks.service), BELOW, 1, NO_TASK_MINUTES,
            "No task of the service `devices` runs: readings wait in NATS, and nobody sees that a device is gone. See "
            "the service's events in ECS, then the last line of the log.",
            cloudwatch.TreatMissingData.BREACHING,
        )  # fmt: skip
        alarms.make(
            self, "DevicesReadingsWait", own("DevicesReadingAge", table, "Maximum"), AT_LEAST, WAITING_S,
            WAITING_MINUTES,
            f"A reading, a connect or a will has waited for {WAITING_S // 60} minutes, or no task can tell. When "
            f"{contract.MQTT_STREAM} is full, devices are disconnected. See that the tasks run, their last log lines, "
            "and the table's write throttles.",
            cloudwatch.TreatMissingData.BREACHING,
        )  # fmt: skip
        alarms.make(
            self, "DevicesDeadLetters", own("DevicesDeadLetters", table, "Maximum"), AT_LEAST, 1, 1,
            f"A device sent a message that is no reading; it is in the stream {contract.DEAD_STREAM}, the reason in "
            "its headers. Correct the device, then purge the stream.",
        )  # fmt: skip
        alarms.make(
            self, "DevicesLettersRefused", own("DevicesDeadLettersRefused", table, "Maximum"), AT_LEAST, 1, 5,
            f"The stream {contract.DEAD_STREAM} takes no dead letters, so their messages come again and again. Make "
            "room in it, or make it (`make cp-create`).",
        )  # fmt: skip
        if section.webhook_secret:
            alarms.make(
                self, "DevicesOutagesUnreported", own("DevicesOutageAge", table, "Maximum"), AT_LEAST, UNREPORTED_S,
                UNREPORTED_MINUTES,
                f"An outage was not reported for {UNREPORTED_S // 60} minutes: the webhook fails, or no task reports. "
                "The log says why. Correct the secret of webhook_secret and replace the tasks, or see the webhook's "
                "own status; it is tried again until it succeeds.",
            )  # fmt: skip
        if section.silent_minutes:
            alarms.make(
                self, "DevicesSilent", own("DevicesSilence", table, "Minimum"), AT_LEAST, 60 * section.silent_minutes,
                SILENT_MINUTES,
                f"No device sent a reading for {section.silent_minutes} minutes (silent_minutes). See the facility's "
                "power and network, then the log of nats-server: its MQTT port, its certificate, devices it refuses.",
            )  # fmt: skip


def _role(settings: Settings, table: dynamodb.ITable, let_in: Sequence[ec2.ISecurityGroup]) -> Role:
    section = settings.devices
    uses = iam.PolicyStatement(
        actions=["dynamodb:BatchWriteItem", "dynamodb:DescribeTable", "dynamodb:Query", "dynamodb:Scan"],
        resources=[table.table_arn],
    )
    return Role(
        "devices",
        cpu=section.cpu,
        memory=section.memory,
        architecture=settings.architecture,
        tasks=section.tasks,
        always=1,
        is_autoscaled=False,
        environment={
            "DEVICES_TABLE": table.table_name,
            "FACILITY": section.facility,
            "DEVICE_SILENCE": str(section.silence),
            "PULSE": f"{section.pulse:g}",
            "RETENTION_DAYS": str(section.retention_days),
        },
        statements=(uses, *may_use_key(section.existing_table_key)),
        security_groups=let_in,
    )


def _clients(scope: Construct, network: Network, clients: Sequence[str]) -> ec2.SecurityGroup:
    """Return the security group that lets clients reach the gRPC API, and lets nothing out."""
    group = ec2.SecurityGroup(
        scope,
        "Clients",
        vpc=network.vpc,
        allow_all_outbound=False,
        description="Clients of the role devices: in to gRPC",
    )
    for client in clients:
        peer = ec2.Peer.security_group_id(client) if client.startswith("sg-") else ec2.Peer.ipv4(client)
        group.add_ingress_rule(peer, ec2.Port.tcp(PORT), "gRPC with mutual TLS")
    return group
