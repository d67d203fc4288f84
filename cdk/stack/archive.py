"""The archive: a table of events, and tasks that scale by backlog, from zero and back (docs/adr/0013-archive.md)."""

from __future__ import annotations

from math import ceil
from typing import Final, cast

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Validations
from aws_cdk import aws_applicationautoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.observability.alarms import ABOVE, AT_LEAST, BELOW, Alarms
from cdk.observability.metrics import MINUTE, own, queue_backlog, queue_oldest, queue_stuck, queue_work, stream_work
from cdk.stack.sqs import existing_queue, make_queue, may_read
from cdk.stack.table import make_table, may_use_key
from cdk.stack.tasks import Role, Shared, Tasks
from deploy.sections import ArchiveSection
from deploy.settings import Settings
from service.contracts import archive as contract

STUCK_S: Final = 1800
STUCK_MINUTES: Final = 5
KEPT: Final = Duration.days(14)
"""The longest time that SQS keeps a message."""


def archive(settings: Settings, table: dynamodb.ITable, queue: sqs.IQueue | None) -> Role:
    section = settings.archive
    writes = iam.PolicyStatement(
        actions=["dynamodb:BatchWriteItem", "dynamodb:DescribeTable"], resources=[table.table_arn]
    )
    return Role(
        "archive",
        cpu=section.cpu,
        memory=section.memory,
        architecture=settings.architecture,
        tasks=0,
        always=0,
        environment={
            "ARCHIVE_SOURCE": f"sqs:{queue.queue_url}" if queue else f"jetstream:{contract.STREAM}",
            "ARCHIVE_TABLE": table.table_name,
            "IDLE_EXIT": str(section.idle_exit),
            "RETENTION_DAYS": str(section.retention_days),
        },
        statements=(writes, *may_use_key(section.existing_table_key), *((may_read(queue),) if queue else ())),
    )


class Archive(Construct):
    """The archive. Its number of tasks follows only the backlog: the stream's, which the role `customer` reports once
    a minute, or the queue's, which SQS reports.
    """

    def __init__(self, scope: Construct, id_: str, shared: Shared) -> None:
        super().__init__(scope, id_)
        settings = shared.settings
        self.table = make_table(
            self,
            "Events",
            settings,
            name=settings.events_table_name,
            existing=bool(settings.archive.existing_table),
            keys=(contract.PARTITION_KEY, contract.SORT_KEY),
            removal=shared.removal,
            first=shared.first,
            expires=contract.TTL_ATTRIBUTE if settings.archive.retention_days else None,
        )
        self.queue = self._queue(settings, shared.removal) if settings.archive.source == "sqs" else None
        self.tasks = Tasks(self, "Tasks", shared, archive(settings, self.table, self.queue))
        if self.queue:
            self._scale(settings.archive, queue_backlog(self.queue), queue_work(self.queue))
            self._alarms(shared.alarms, queue_oldest(self.queue))
        else:
            backlog = own("ArchiveBacklog", settings.table_name, "Maximum")
            self._scale(settings.archive, backlog, stream_work(settings))
            self._alarms(shared.alarms, own("ArchiveOldest", settings.table_name, "Maximum"))

    def _queue(self, settings: Settings, removal: RemovalPolicy) -> sqs.IQueue:
        if settings.archive.queue:
            return existing_queue(self, "Messages", settings.archive.queue)
        queue = make_queue(self, "Messages", f"customer-archive-{settings.initials}", kept=KEPT, removal=removal)
        reason = f"A message that cannot become a row goes to the stream {contract.DEAD_STREAM}; others are retried."
        Validations.of(queue).acknowledge(Acknowledgment(id="AwsSolutions::AwsSolutions-SQS3", reason=reason))
        return queue

    def _scale(self, section: ArchiveSection, backlog: cloudwatch.IMetric, work: cloudwatch.IMetric) -> None:
        """Scale by two alarms with one threshold, half a message below the first step. So at most one fires, and no
        backlog equals a bound, where AWS would assign it to a step by the alarm's direction.

        The second alarm also waits until no work was done for as long as an idle task waits before it exits: with a
        trickle of messages, every sample of the backlog is 0. An alarm that stays in ALARM keeps scaling, so a task
        that dies is replaced while there is a backlog.
        https://docs.aws.amazon.com/autoscaling/application/APIReference/API_StepAdjustment.html
        """
        scaling = self.tasks.service.auto_scale_task_count(min_capacity=0, max_capacity=section.steps[-1].tasks)
        target = cast("autoscaling.ScalableTarget", scaling.node.find_child("Target"))
        first = section.steps[0].backlog
        start = self._set_tasks("Backlog", target, backlog, first - 0.5, ABOVE)
        for step, after in zip(section.steps, (*section.steps[1:], None), strict=True):
            upper = after.backlog - first if after else None
            start.add_adjustment(adjustment=step.tasks, lower_bound=step.backlog - first, upper_bound=upper)
        end = self._set_tasks("NoBacklog", target, work, first - 0.5, BELOW, minutes=1 + ceil(section.idle_exit / 60))
        end.add_adjustment(adjustment=0, upper_bound=0)

    def _set_tasks(
        self,
        name: str,
        target: autoscaling.ScalableTarget,
        metric: cloudwatch.IMetric,
        threshold: float,
        operator: cloudwatch.ComparisonOperator,
        minutes: int = 1,
    ) -> autoscaling.StepScalingAction:
        """Return a policy that sets the number of tasks while the metric is beyond the threshold."""
        policy = autoscaling.StepScalingAction(
            self,
            f"{name}Policy",
            scaling_target=target,
            adjustment_type=autoscaling.AdjustmentType.EXACT_CAPACITY,
            cooldown=MINUTE,
            metric_aggregation_type=autoscaling.MetricAggregationType.MAXIMUM,
        )
        alarm = cloudwatch.Alarm(
            self,
            f"{name}Alarm",
            alarm_description="Sets the number of the archive's tasks. In ALARM is its normal state: nothing to do.",
            metric=metric,
            threshold=threshold,
            evaluation_periods=minutes,
            comparison_operator=operator,
        )
        alarm.add_alarm_action(actions.ApplicationScalingAction(policy))
        return policy

    def _alarms(self, alarms: Alarms, oldest: cloudwatch.IMetric) -> None:
        alarms.make(
            self, "ArchiveStuck", oldest, AT_LEAST, STUCK_S, STUCK_MINUTES,
            f"A message has waited for {STUCK_S // 60} minutes to be archived, or the role `customer` cannot tell: "
            "`make cp-create` gives it the permission. See that tasks of the service `archive` run, their last log "
            "lines, and the events table's write throttles.",
            cloudwatch.TreatMissingData.NOT_BREACHING if self.queue else cloudwatch.TreatMissingData.BREACHING,
        )  # fmt: skip
        alarms.make(
            self, "ArchiveLettersRefused", own("ArchiveDeadLettersRefused", self.table.table_name, "Maximum"), AT_LEAST,
            1, 5,
            f"The stream {contract.DEAD_STREAM} takes no dead letters, so their messages come again and again. Make "
            "room in it, or make it (`make cp-create`).",
        )  # fmt: skip
        alarms.make(
            self, "ArchiveDeadLetters", own("ArchiveDeadLetters", self.table.table_name, "Maximum"), AT_LEAST, 1, 1,
            f"A message cannot become a row; it is in the stream {contract.DEAD_STREAM}, the reason in its headers.",
        )  # fmt: skip
        if self.queue:
            alarms.make(
                self, "ArchiveNothingDeleted", queue_stuck(self.queue), AT_LEAST, 1, STUCK_S // 60,
                f"Messages have been in the archive's queue for {STUCK_S // 60} minutes, and none was deleted. See "
                "that tasks of the service `archive` run, and their last log lines.",
            )  # fmt: skip
            return
        alarms.make(
            self, "ArchiveDiscarded", own("ArchiveDiscarded", self.table.table_name, "Maximum"), AT_LEAST, 1, 1,
            "The stream discarded events before they were archived: their rows are missing for good. Make the stream "
            "larger (`make cp-create`, option --stream-size), and see why tasks are late.",
        )  # fmt: skip
        unconfirmed = own("ArchiveUnconfirmed", alarms.settings.table_name, "Maximum")
        alarms.make(
            self, "ArchiveUnconfirmed", unconfirmed, AT_LEAST, 1, 1,
            "The stream discards events that the archive has not acknowledged in turn; some may be lost to it. Make "
            "the stream larger, and see why the archive's tasks are late.",
        )  # fmt: skip
