"""A dashboard and the alarms, over what the service itself reports (service/customer/metrics.py), ECS and DynamoDB."""

from __future__ import annotations

from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from cdk.settings import Settings
from service.customer.contract import METRICS_DIMENSION, METRICS_NAMESPACE
from service.customer.errors import ERRORS

MINUTE = Duration.minutes(1)
SERVER_ERRORS = tuple(error.description for error in ERRORS if error.code >= "500")
ERROR_RATE_PERCENT = 1
PENDING_EVENTS = 1000


class Observability(Construct):
    """What operators look at, and what wakes them."""

    def __init__(
        self, scope: Construct, id_: str, settings: Settings, *, service: ecs.FargateService, table: dynamodb.Table
    ) -> None:
        super().__init__(scope, id_)
        self._settings = settings
        self._table = table
        self.in_flight = self._metric("InFlight", "Average")
        self._dashboard(service)
        self._alarms()

    def _metric(self, name: str, statistic: str, **options: Any) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=METRICS_NAMESPACE,
            metric_name=name,
            dimensions_map={METRICS_DIMENSION: self._settings.table_name},
            statistic=statistic,
            period=MINUTE,
            **options,
        )

    def _throttles(self) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="AWS/DynamoDB",
            metric_name="ReadThrottleEvents",
            dimensions_map={"TableName": self._table.table_name},
            statistic="Sum",
            period=MINUTE,
        )

    def _dashboard(self, service: ecs.FargateService) -> None:
        def graph(title: str, *metrics: cloudwatch.IMetric) -> cloudwatch.GraphWidget:
            return cloudwatch.GraphWidget(title=title, left=list(metrics), width=8, height=6)

        tasks = cloudwatch.Metric(
            namespace="ECS/ContainerInsights",
            metric_name="RunningTaskCount",
            dimensions_map={"ClusterName": service.cluster.cluster_name, "ServiceName": service.service_name},
            statistic="Average",
            period=MINUTE,
        )
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=self._settings.stack_name,
            widgets=[
                [
                    graph("Requests a minute", self._metric("Requests", "Sum")),
                    graph("Errors a minute, by code", *(self._metric(error.description, "Sum") for error in ERRORS)),
                    graph("Latency, slowest task", *(self._metric(f"LatencyP{q}", "Maximum") for q in (50, 99))),
                ],
                [
                    graph("In flight per task", self.in_flight),
                    graph("Keys per BatchGetItem", self._metric("BatchSize", "Average")),
                    graph(
                        "Events pending and dropped",
                        self._metric("EventsPending", "Sum"),
                        self._metric("EventsDropped", "Sum"),
                    ),
                ],
                [
                    graph("Tasks running, tasks ready", tasks, self._metric("Ready", "Sum")),
                    graph("CPU and memory", service.metric_cpu_utilization(), service.metric_memory_utilization()),
                    graph("Table throttles", self._throttles()),
                ],
            ],
        )

    def _alarms(self) -> None:
        above = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
        not_breaching, breaching = cloudwatch.TreatMissingData.NOT_BREACHING, cloudwatch.TreatMissingData.BREACHING
        errors = {f"e{number}": self._metric(name, "Sum") for number, name in enumerate(SERVER_ERRORS)}
        rate = cloudwatch.MathExpression(
            # MAX of a time series and a number is refused by CloudWatch, and with it the whole stack.
            expression=f"IF(requests > 0, 100 * ({' + '.join(errors)}) / requests, 0)",
            using_metrics={**errors, "requests": self._metric("Requests", "Sum")},
            period=MINUTE,
            label="server errors, percent",
        )
        self._alarm(
            "NoTaskReady",
            self._metric("Ready", "Sum"),
            1,
            3,
            breaching,
            "No task is ready. Look at the service's events in ECS, then at the last lines of the log: a task that "
            "cannot start says in one line what is missing and which command mends it.",
            cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
        )
        self._alarm(
            "ErrorRate",
            rate,
            ERROR_RATE_PERCENT,
            5,
            not_breaching,
            "More than 1 % of the requests are answered with 500 or 503. By code on the dashboard: OVERLOADED, raise "
            "max_tasks; UNAVAILABLE, see the table's throttles and the DynamoDB status; INTERNAL_ERROR, see the log.",
            above,
        )
        self._alarm(
            "EventsDropped",
            self._metric("EventsDropped", "Sum"),
            0,
            1,
            not_breaching,
            "Events were dropped because there was no room: responses are missing from the stream. Run "
            "`make cp-status`, and see why the stream takes none (the log line `events are waiting` has its reason).",
            above,
        )
        self._alarm(
            "EventsPending",
            self._metric("EventsPending", "Sum"),
            PENDING_EVENTS,
            5,
            not_breaching,
            "Events have been waiting for the stream for five minutes; they are kept in memory and will be dropped. "
            "Run `make cp-status`, and see that the stream exists and has room.",
            above,
        )
        self._alarm(
            "TableThrottled", self._throttles(), 0, 5, not_breaching,
            "DynamoDB throttles reads. An on-demand table doubles what it allows every 30 minutes; for a sharper rise "
            "warm it up (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput.html).",
            above,
        )  # fmt: skip

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        threshold: float,
        periods: int,
        missing: cloudwatch.TreatMissingData,
        description: str,
        operator: cloudwatch.ComparisonOperator,
    ) -> None:
        cloudwatch.Alarm(
            self,
            name,
            alarm_name=f"{self._settings.stack_name}-{name}",
            alarm_description=description,
            metric=metric,
            threshold=threshold,
            evaluation_periods=periods,
            datapoints_to_alarm=periods,
            comparison_operator=operator,
            treat_missing_data=missing,
        )
