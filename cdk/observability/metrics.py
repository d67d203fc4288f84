"""The metrics that alarms, scaling and the dashboard read: one value a minute."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_sqs as sqs

from deploy.settings import Settings
from service.contracts.cloudwatch import METRICS_DIMENSION, METRICS_NAMESPACE

MINUTE: Final = Duration.minutes(1)


def own(name: str, table: str, statistic: str) -> cloudwatch.Metric:
    """Return a metric that each task reports. The dimension `table` distinguishes deployments."""
    return _metric(METRICS_NAMESPACE, name, {METRICS_DIMENSION: table}, statistic)


def running_tasks(service: ecs.FargateService) -> cloudwatch.Metric:
    """Count the service's running tasks: each sends one sample a minute, and without tasks there is no value.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/available-metrics.html
    """
    return service.metric_cpu_utilization(period=MINUTE, statistic="SampleCount")


def queue_backlog(queue: sqs.IQueue) -> cloudwatch.MathExpression:
    """Count the messages that wait and those that tasks hold. SQS reports neither for an idle queue."""
    return _of_queue(queue, "waiting + held", deleted=False)


def queue_work(queue: sqs.IQueue) -> cloudwatch.MathExpression:
    """Count the messages of `queue_backlog`, and those deleted in that minute."""
    return _of_queue(queue, "waiting + held + FILL(deleted, 0)")


def queue_stuck(queue: sqs.IQueue) -> cloudwatch.MathExpression:
    """Return 1 for a minute in which there were messages and none was deleted.

    The age of the oldest message does not show this: SQS leaves out messages that were received three times.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
    """
    return _of_queue(queue, "IF(waiting + held > 0, IF(FILL(deleted, 0) > 0, 0, 1), 0)")


def queue_oldest(queue: sqs.IQueue) -> cloudwatch.Metric:
    """Return the age of the queue's oldest message, in seconds."""
    return queue.metric_approximate_age_of_oldest_message(period=MINUTE, statistic="Maximum")


def stream_work(settings: Settings) -> cloudwatch.MathExpression:
    """Count the events that are not archived yet, and the rows written in that minute."""
    return cloudwatch.MathExpression(
        expression="backlog + FILL(rows, 0)",
        using_metrics={
            "backlog": own("ArchiveBacklog", settings.table_name, "Maximum"),
            "rows": own("ArchiveRows", settings.events_table_name, "Sum"),
        },
        period=MINUTE,
    )


def _of_queue(queue: sqs.IQueue, expression: str, *, deleted: bool = True) -> cloudwatch.MathExpression:
    metrics: dict[str, cloudwatch.IMetric] = {
        "waiting": queue.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
        "held": queue.metric_approximate_number_of_messages_not_visible(period=MINUTE, statistic="Maximum"),
    }
    if deleted:
        metrics["deleted"] = queue.metric_number_of_messages_deleted(period=MINUTE, statistic="Sum")
    return cloudwatch.MathExpression(expression=expression, using_metrics=metrics, period=MINUTE)


class Metrics:
    """The metrics of the role `customer` and of its table."""

    def __init__(self, settings: Settings, service: ecs.FargateService, table: dynamodb.ITable) -> None:
        self._settings = settings
        self._table = table
        self.cpu = service.metric_cpu_utilization(period=MINUTE)
        self.memory = service.metric_memory_utilization(period=MINUTE)

    def own(self, name: str, statistic: str) -> cloudwatch.Metric:
        """Return a metric that the service reports: one value per task and minute."""
        return own(name, self._settings.table_name, statistic)

    def throttles(self) -> cloudwatch.Metric:
        return _metric("AWS/DynamoDB", "ReadThrottleEvents", {"TableName": self._table.table_name}, "Sum")


def _metric(namespace: str, name: str, dimensions: dict[str, str], statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=namespace, metric_name=name, dimensions_map=dimensions, statistic=statistic, period=MINUTE
    )
