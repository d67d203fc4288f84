"""The queue sidecar and a business container, in one task (docs/adr/0015-queue-sidecar.md)."""

from __future__ import annotations

import re
from typing import Final

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.sections import QueueSection
from cdk.settings import Settings
from cdk.sqs import make_queue, may_read
from cdk.tasks import Role, Surroundings, Tasks
from service.queue import contract

KEPT: Final = Duration.days(7)
DEAD_KEPT: Final = Duration.days(14)
"""From the first sending on, also in the dead-letter queue."""

_ECR: Final = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com/(?P<name>[^:@]+)[:@]?(?P<tag>.*)"
)


class Queue(Construct):
    """The business container calls `SIDECAR`; it is started once the sidecar is healthy, and stopped before it."""

    def __init__(self, scope: Construct, id_: str, around: Surroundings) -> None:
        super().__init__(scope, id_)
        settings = around.settings
        section = settings.queue
        self.queue = self._queue(settings, around.removal) if section.source == "sqs" else None
        self.tasks = Tasks(self, "Tasks", around, _role(section, self.queue))
        self._business(section, around)

    def _business(self, section: QueueSection, around: Surroundings) -> None:
        business = self.tasks.definition.add_container(
            "business",
            image=self._image(section.image),
            environment={"SIDECAR": contract.LISTEN},
            logging=ecs.LogDrivers.aws_logs(log_group=self.tasks.log_group, stream_prefix="business"),
            readonly_root_filesystem=not around.settings.exec,
            stop_timeout=Duration.seconds(section.stop_timeout),
        )
        # What starts after another is stopped before it: the last messages can still be deleted.
        business.add_container_dependencies(
            ecs.ContainerDependency(container=self.tasks.container, condition=ecs.ContainerDependencyCondition.HEALTHY)
        )

    def _image(self, name: str) -> ecs.ContainerImage:
        """One of ECR may be pulled by this task; any other registry's must be public."""
        found = _ECR.fullmatch(name)
        if not found:
            return ecs.ContainerImage.from_registry(name)
        arn = f"arn:{Aws.PARTITION}:ecr:{found['region']}:{found['account']}:repository/{found['name']}"
        repository = ecr.Repository.from_repository_attributes(
            self, "Image", repository_arn=arn, repository_name=found["name"]
        )
        return ecs.ContainerImage.from_ecr_repository(repository, found["tag"] or "latest")

    def _queue(self, settings: Settings, removal: RemovalPolicy) -> sqs.Queue:
        name = f"customer-queue-{settings.initials}"
        dead = make_queue(
            self, "DeadLetters", f"customer-queue-dead-{settings.initials}", kept=DEAD_KEPT, removal=removal
        )
        queue = make_queue(
            self, "Messages", name, kept=KEPT, removal=removal, dead=dead,
            max_receive_count=settings.queue.max_deliver,
        )  # fmt: skip
        cloudwatch.Alarm(
            self,
            "QueueDeadLetters",
            alarm_name=f"{settings.stack_name}-QueueDeadLetters",
            alarm_description=(
                f"A message was received {settings.queue.max_deliver} times and not deleted; it is in the queue "
                f"customer-queue-dead-{settings.initials}. See the business container's log, correct it, and redrive."
            ),
            metric=dead.metric_approximate_number_of_messages_visible(period=Duration.minutes(1), statistic="Maximum"),
            threshold=1,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        return queue


def _role(section: QueueSection, queue: sqs.Queue | None) -> Role:
    environment = {"QUEUE_LISTEN": contract.LISTEN}
    statements: tuple[iam.PolicyStatement, ...] = ()
    if queue:
        environment |= {"QUEUE": f"sqs:{queue.queue_url}"}
        statements = (may_read(queue),)
    else:
        environment |= {"QUEUE": f"jetstream:{contract.STREAM}", "QUEUE_MAX_DELIVER": str(section.max_deliver)}
    return Role(
        "queue",
        cpu=section.cpu,
        memory=section.memory,
        tasks=section.tasks,
        always=section.tasks,
        environment=environment,
        statements=statements,
        reads_nats=queue is None,
    )
