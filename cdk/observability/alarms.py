"""The alarms, and whom they notify. Each says what to do; docs/runbook.md has more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from cdk.observability.metrics import Metrics
from deploy.settings import Settings
from service.requests.errors import ERRORS

SERVER_ERRORS: Final = tuple(error.description for error in ERRORS if error.code >= "500")
ERROR_RATE_PERCENT: Final = 1
WITHOUT_CREDIT_PERCENT: Final = 20

CONFLICTS_A_MINUTE: Final = 600
ABOVE: Final = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
AT_LEAST: Final = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
BELOW: Final = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD


@dataclass(frozen=True)
class Alarms:
    """Makes alarms that a person must act on, and sends their start and end to `alert_email`.

    Alarms that only start and stop tasks are made elsewhere and notify nobody: ALARM is their normal state.
    """

    settings: Settings
    action: actions.SnsAction | None

    @classmethod
    def of(cls, stack: Stack, settings: Settings) -> Alarms:
        return cls(settings, actions.SnsAction(_topic(stack, settings)) if settings.alert_email else None)

    def make(
        self,
        scope: Construct,
        name: str,
        metric: cloudwatch.IMetric,
        operator: cloudwatch.ComparisonOperator,
        threshold: float,
        minutes: int,
        description: str,
        missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> None:
        """Make an alarm that fires after `minutes` in a row beyond the threshold."""
        made = cloudwatch.Alarm(
            scope,
            name,
            alarm_name=f"{self.settings.stack_name}-{name}",
            alarm_description=description,
            metric=metric,
            threshold=threshold,
            evaluation_periods=minutes,
            datapoints_to_alarm=minutes,
            comparison_operator=operator,
            treat_missing_data=missing,
        )
        if self.action:
            made.add_alarm_action(self.action)
            made.add_ok_action(self.action)


def of_customer(alarms: Alarms, scope: Construct, metrics: Metrics) -> None:
    """Make the alarms of the role `customer`."""
    make, settings = partial(alarms.make, scope), alarms.settings
    make(
        "NoTaskServing", metrics.own("Serving", "Sum"), BELOW, 1, 3,
        "No task answers requests. Look at the service's events in ECS, then at the last lines of the log: a task that "
        "cannot start says in one line what is missing and which command mends it.",
        cloudwatch.TreatMissingData.BREACHING,
    )  # fmt: skip
    make(
        "FewTasksServing", metrics.own("Serving", "Sum"), BELOW, settings.min_tasks, 10,
        f"Fewer than {settings.min_tasks} tasks (min_tasks) answer requests. Look at the service's events in ECS: no "
        "capacity, a task that does not become healthy, or one that ends; its last line in the log says why.",
        cloudwatch.TreatMissingData.BREACHING,
    )  # fmt: skip
    make(
        "ErrorRate", _error_rate(metrics), ABOVE, ERROR_RATE_PERCENT, 5,
        "More than 1 % of the requests are answered with 500 or 503. By code in the metrics: UNAVAILABLE, "
        "see the table's throttles and the DynamoDB status; INTERNAL_ERROR, see the log.",
    )  # fmt: skip
    make(
        "Latency", metrics.own("LatencyP99", "Maximum"), ABOVE, settings.latency_p99_ms, 5,
        f"The slowest task's p99 is above {settings.latency_p99_ms} ms (latency_p99_ms). See CPU and requests in "
        "flight: high, raise max_tasks or cpu; low, see DynamoDB's SuccessfulRequestLatency and the table's throttles.",
    )  # fmt: skip
    make(
        "TimeWithoutCredit", metrics.own("TimeWithoutCredit", "Average"), ABOVE, WITHOUT_CREDIT_PERCENT, 5,
        "The tasks take no requests for a fifth of the time, because they have as many as they can answer; requesters "
        "get `no responders` or a time-out. Raise max_tasks; if CPU is low, see DynamoDB's latency.",
    )  # fmt: skip
    make(
        "EventsNotFlowing", metrics.own("EventsFlowing", "Minimum"), BELOW, 1, 3,
        "A task's events are not acknowledged by the stream; requests are answered, their events kept in memory and "
        "tried again. Run `make cp-status`, see that the stream exists and has room; do not restart tasks meanwhile.",
    )  # fmt: skip
    make(
        "EventsDropped", metrics.own("EventsDropped", "Sum"), ABOVE, 0, 1,
        "Events were dropped because there was no room: responses are missing from the stream. Run "
        "`make cp-status`, and see why the stream takes none (the log line `events are waiting` has its reason).",
    )  # fmt: skip
    make(
        "AdjustmentConflicts", metrics.own("AdjustmentConflicts", "Sum"), ABOVE, CONFLICTS_A_MINUTE, 5,
        f"More than {CONFLICTS_A_MINUTE} transactions a minute are cancelled because another one came first: several "
        "tasks, or another program, adjust the same clients. They are tried again; see Latency, and who writes there.",
    )  # fmt: skip
    make(
        "AdjustmentsUnknown", metrics.own("AdjustmentsUnknown", "Sum"), ABOVE, 0, 5,
        "Requesters are told that an adjustment's outcome is unknown, because DynamoDB does not answer. They must "
        "repeat each under its id, which settles it. See DynamoDB's status, and the log.",
    )  # fmt: skip
    make(
        "TableThrottled", metrics.throttles(), ABOVE, 0, 5,
        "DynamoDB throttles reads. An on-demand table doubles what it allows every 30 minutes; for a sharper rise "
        "warm it up (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput.html).",
    )  # fmt: skip


def _error_rate(metrics: Metrics) -> cloudwatch.MathExpression:
    errors = {f"e{number}": metrics.own(name, "Sum") for number, name in enumerate(SERVER_ERRORS)}
    requests = metrics.own("Requests", "Sum")
    return cloudwatch.MathExpression(
        # CloudWatch refuses MAX of a time series and a number, and then the whole stack fails.
        expression=f"IF(requests > 0, 100 * ({' + '.join(errors)}) / requests, 0)",
        using_metrics={**errors, "requests": requests},
        period=requests.period,
        label="server errors, percent",
    )


def _topic(scope: Construct, settings: Settings) -> sns.Topic:
    """Make the topic. A topic with its own policy has no default policy, so it must allow CloudWatch by name."""
    topic = sns.Topic(scope, "Alerts", display_name=settings.stack_name, enforce_ssl=True)
    stack = Stack.of(scope)
    alarm = stack.format_arn(
        service="cloudwatch",
        resource="alarm",
        resource_name=f"{settings.stack_name}-*",
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )
    topic.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["sns:Publish"],
            resources=[topic.topic_arn],
            conditions={"ArnLike": {"aws:SourceArn": alarm}},
        )
    )
    topic.add_subscription(subscriptions.EmailSubscription(settings.alert_email))
    return topic
