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

from cdk.observability.alarms import AT_LEAST, BELOW, Alarms
from cdk.observability.metrics import MINUTE, own, queue_oldest, queue_stuck, running_tasks
from cdk.stack.sqs import existing_queue, make_queue, may_read
from cdk.stack.tasks import Role, Shared, Tasks
from deploy.sections import QueueSection
from deploy.settings import Settings
from service.contracts import queue as contract

KEPT: Final = Duration.days(7)
DEAD_KEPT: Final = Duration.days(14)
"""Counted from when the message was first sent, also in the dead-letter queue."""

NO_TASK_MINUTES: Final = 5
OLD_S: Final = 3600
OLD_MINUTES: Final = 5

_ECR: Final = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z0-9.-]+/(?P<name>[^:@]+)([:@].*)?"
)
"""An image in a private ECR registry. The host differs by partition, and for FIPS and dual stack.

https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-requests.html
"""


class Queue(Construct):
    """The sidecar and the business container, which calls `SIDECAR`, starts after it is healthy and stops before it."""

    def __init__(self, scope: Construct, id_: str, shared: Shared) -> None:
        super().__init__(scope, id_)
        settings = shared.settings
        section = settings.queue
        self.queue: sqs.IQueue | None = None
        dead: sqs.IQueue | None = None
        if section.source == "sqs":
            self.queue, dead = self._queues(settings, shared.removal)
        self.tasks = Tasks(self, "Tasks", shared, _role(settings, self.queue))
        self._business(section, shared)
        self._alarms(shared.alarms, dead)

    def _business(self, section: QueueSection, shared: Shared) -> None:
        business = self.tasks.definition.add_container(
            "business",
            image=self._image(section.image),
            environment={"SIDECAR": contract.LISTEN},
            logging=ecs.LogDrivers.aws_logs(log_group=self.tasks.log_group, stream_prefix="business"),
            readonly_root_filesystem=section.read_only and not shared.settings.exec,
            stop_timeout=Duration.seconds(section.stop_timeout),
        )
        if section.read_only:
            self.tasks.definition.add_volume(name="tmp")
            business.add_mount_points(ecs.MountPoint(source_volume="tmp", container_path="/tmp", read_only=False))  # noqa: S108
        # A container that starts after another stops before it, so the last messages can still be deleted.
        business.add_container_dependencies(
            ecs.ContainerDependency(container=self.tasks.container, condition=ecs.ContainerDependencyCondition.HEALTHY)
        )

    def _image(self, name: str) -> ecs.ContainerImage:
        """Return the image of that name. Let the task pull an image in ECR; any other registry must be public."""
        if found := _ECR.fullmatch(name):
            arn = f"arn:{Aws.PARTITION}:ecr:{found['region']}:{found['account']}:repository/{found['name']}"
            repository = ecr.Repository.from_repository_attributes(
                self, "Image", repository_arn=arn, repository_name=found["name"]
            )
            repository.grant_pull(self.tasks.definition.obtain_execution_role())
        return ecs.ContainerImage.from_registry(name)

    def _queues(self, settings: Settings, removal: RemovalPolicy) -> tuple[sqs.IQueue, sqs.IQueue | None]:
        """Return the queue and, if the stack makes both, its dead-letter queue."""
        if settings.queue.queue:
            return existing_queue(self, "Messages", settings.queue.queue), None
        dead = make_queue(
            self, "DeadLetters", f"customer-queue-dead-{settings.initials}", kept=DEAD_KEPT, removal=removal
        )
        queue = make_queue(
            self, "Messages", f"customer-queue-{settings.initials}", kept=KEPT, removal=removal, dead=dead,
            max_receive_count=settings.queue.max_deliver,
        )  # fmt: skip
        return queue, dead

    def _alarms(self, alarms: Alarms, dead: sqs.IQueue | None) -> None:
        settings = alarms.settings
        alarms.make(
            self, "QueueNoTask", running_tasks(self.tasks.service), BELOW, 1, NO_TASK_MINUTES,
            "No task of the service `queue` runs, so nobody handles the messages. See the service's events in ECS, "
            "then the last lines of both containers' logs.",
            cloudwatch.TreatMissingData.BREACHING,
        )  # fmt: skip
        oldest = queue_oldest(self.queue) if self.queue else own("QueueOldest", settings.table_name, "Maximum")
        alarms.make(
            self, "QueueOld", oldest, AT_LEAST, OLD_S, OLD_MINUTES,
            f"A message has waited for {OLD_S // 60} minutes to be handled and deleted; it is lost when its retention "
            "ends. Or the role `customer` cannot tell (`make cp-create` gives it the permission). See the business "
            "container's log, and raise tasks under [queue] if it is busy.",
            cloudwatch.TreatMissingData.NOT_BREACHING if self.queue else cloudwatch.TreatMissingData.BREACHING,
        )  # fmt: skip
        if self.queue:
            alarms.make(
                self, "QueueNothingDeleted", queue_stuck(self.queue), AT_LEAST, 1, OLD_S // 60,
                f"Messages have been in the queue for {OLD_S // 60} minutes, and none was deleted: the business "
                "container fails on each. See its log.",
            )  # fmt: skip
        if dead or not self.queue:
            letters = (
                dead.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum")
                if dead
                else own("QueueDeadLetters", settings.table_name, "Maximum")
            )
            where = f"queue customer-queue-dead-{settings.initials}" if dead else f"stream {contract.DEAD_STREAM}"
            alarms.make(
                self, "QueueDeadLetters", letters, AT_LEAST, 1, 1,
                f"A message was received {settings.queue.max_deliver} times and not deleted; it is in the {where}. See "
                "the business container's log, correct it, and send the message again.",
            )  # fmt: skip


def _role(settings: Settings, queue: sqs.IQueue | None) -> Role:
    section = settings.queue
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
        architecture=settings.queue_architecture,
        tasks=section.tasks,
        always=1,
        is_autoscaled=False,
        environment=environment,
        statements=statements,
        reads_nats=queue is None,
    )
