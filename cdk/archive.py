"""The archive: a table of events, and tasks from zero by backlog, and back to zero (docs/adr/0013-archive.md)."""

from __future__ import annotations

from typing import Final

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_applicationautoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.sections import ArchiveSection
from cdk.settings import Settings
from cdk.sqs import make_queue, may_read
from cdk.table import make_table
from cdk.tasks import Role, Surroundings, Tasks
from service.archive import contract
from service.customer.contract import METRICS_DIMENSION, METRICS_NAMESPACE

STUCK_MINUTES: Final = 30
MINUTE: Final = Duration.minutes(1)
KEPT: Final = Duration.days(14)
"""The longest that SQS keeps a message."""
OLD: Final = Duration.days(1)
"""Well before a queue discards a message: SQS' default is four days."""


def archive(settings: Settings, table: dynamodb.ITable, queue: sqs.IQueue | None) -> Role:
    section = settings.archive
    writes = iam.PolicyStatement(
        actions=["dynamodb:BatchWriteItem", "dynamodb:DescribeTable"], resources=[table.table_arn]
    )
    return Role(
        "archive",
        cpu=section.cpu,
        memory=section.memory,
        tasks=0,
        always=0,
        environment={
            "ARCHIVE_SOURCE": f"sqs:{queue.queue_url}" if queue else f"jetstream:{contract.STREAM}",
            "ARCHIVE_TABLE": table.table_name,
            "IDLE_EXIT": str(section.idle_exit),
            "RETENTION_DAYS": str(section.retention_days),
        },
        statements=(writes, may_read(queue)) if queue else (writes,),
    )


class Archive(Construct):
    """Its tasks are counted by the backlog alone: once a minute the role `customer` writes the stream's, or SQS its
    queue's.
    """

    def __init__(self, scope: Construct, id_: str, around: Surroundings) -> None:
        super().__init__(scope, id_)
        settings = around.settings
        self.table = make_table(
            self,
            "Events",
            settings,
            name=settings.events_table_name,
            existing=bool(settings.archive.existing_table),
            keys=(contract.PARTITION_KEY, contract.SORT_KEY),
            removal=around.removal,
            first=around.first,
            expires=contract.TTL_ATTRIBUTE if settings.archive.retention_days else None,
        )
        self.queue = self._queue(settings, around.removal) if settings.archive.source == "sqs" else None
        self.tasks = Tasks(self, "Tasks", around, archive(settings, self.table, self.queue))
        backlog = queue_backlog(self.queue) if self.queue else metric("ArchiveBacklog", settings.table_name, "Maximum")
        self._scale(settings.archive, backlog)
        self._alarms(settings, backlog)
        if self.queue:
            self._alarm_of_queue(settings, self.queue)
        else:
            self._alarms_of_stream(settings)

    def _queue(self, settings: Settings, removal: RemovalPolicy) -> sqs.IQueue:
        given = settings.archive.queue
        if given:
            stack = Stack.of(self)
            arn = given if given.startswith("arn:") else stack.format_arn(service="sqs", resource=given)
            return sqs.Queue.from_queue_arn(self, "Messages", arn)
        queue = make_queue(self, "Messages", f"customer-archive-{settings.initials}", kept=KEPT, removal=removal)
        reason = f"What can be no row goes to the stream {contract.DEAD_STREAM}; anything else is tried again."
        Validations.of(queue).acknowledge(Acknowledgment(id="AwsSolutions::AwsSolutions-SQS3", reason=reason))
        return queue

    def _scale(self, section: ArchiveSection, backlog: cloudwatch.IMetric) -> None:
        """An alarm that stays in ALARM goes on scaling, so a task that dies is replaced while there is a backlog."""
        scaling = self.tasks.service.auto_scale_task_count(min_capacity=0, max_capacity=section.steps[-1].tasks)
        intervals = [autoscaling.ScalingInterval(change=0, upper=section.steps[0].backlog)]
        for step, after in zip(section.steps, (*section.steps[1:], None), strict=True):
            upper = after.backlog if after else None
            intervals.append(autoscaling.ScalingInterval(change=step.tasks, lower=step.backlog, upper=upper))
        scaling.scale_on_metric(
            "Backlog",
            metric=backlog,
            scaling_steps=intervals,
            adjustment_type=autoscaling.AdjustmentType.EXACT_CAPACITY,
            cooldown=MINUTE,
            evaluation_periods=1,
        )

    def _alarms(self, settings: Settings, backlog: cloudwatch.IMetric) -> None:
        self._alarm(
            settings,
            "ArchiveStuck",
            backlog,
            settings.archive.steps[0].backlog,
            STUCK_MINUTES,
            f"The archive's backlog has not been empty for {STUCK_MINUTES} minutes. See that tasks of the service "
            "`archive` run, their last log lines, and the events table's write throttles.",
        )
        self._alarm(
            settings,
            "ArchiveDeadLetters",
            metric("ArchiveDeadLetters", self.table.table_name, "Maximum"),
            1,
            1,
            f"A message can be no row, and is in the stream {contract.DEAD_STREAM} with the reason in its headers.",
        )

    def _alarms_of_stream(self, settings: Settings) -> None:
        self._alarm(
            settings,
            "ArchiveDiscarded",
            metric("ArchiveDiscarded", self.table.table_name, "Maximum"),
            1,
            1,
            "The stream discarded events before they were archived: their rows are missing for good. Make the stream "
            "larger (`make cp-create`, option --stream-size), and see why tasks are late.",
        )
        self._alarm(
            settings,
            "ArchiveUnconfirmed",
            metric("ArchiveUnconfirmed", settings.table_name, "Maximum"),
            1,
            1,
            "The stream discards events that the archive has not acknowledged in turn; some may be lost to it. Make "
            "the stream larger, and see why the archive's tasks are late.",
        )

    def _alarm_of_queue(self, settings: Settings, queue: sqs.IQueue) -> None:
        self._alarm(
            settings,
            "ArchiveOld",
            queue.metric_approximate_age_of_oldest_message(period=MINUTE, statistic="Maximum"),
            OLD.to_seconds(),
            1,
            "A message has been in the archive's queue for a day. The queue discards it, unarchived and untold, when "
            "its retention ends. See why tasks are late.",
        )

    def _alarm(
        self, settings: Settings, name: str, watched: cloudwatch.IMetric, threshold: float, minutes: int, text: str
    ) -> None:
        cloudwatch.Alarm(
            self,
            name,
            alarm_name=f"{settings.stack_name}-{name}",
            alarm_description=text,
            metric=watched,
            threshold=threshold,
            evaluation_periods=minutes,
            datapoints_to_alarm=minutes,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )


def queue_backlog(queue: sqs.IQueue) -> cloudwatch.IMetric:
    """What waits, and what a task holds, dead or alive. SQS writes neither for a queue unused for hours."""
    return cloudwatch.MathExpression(
        expression="waiting + held",
        using_metrics={
            "waiting": queue.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
            "held": queue.metric_approximate_number_of_messages_not_visible(period=MINUTE, statistic="Maximum"),
        },
        period=MINUTE,
    )


def metric(name: str, table: str, statistic: str) -> cloudwatch.Metric:
    """Each task writes it: Maximum is the figure, and a sum would be a multiple of it."""
    return cloudwatch.Metric(
        namespace=METRICS_NAMESPACE,
        metric_name=name,
        dimensions_map={METRICS_DIMENSION: table},
        statistic=statistic,
        period=MINUTE,
    )
