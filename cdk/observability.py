"""What the service reports (service/customer/metrics.py), ECS and DynamoDB: metrics, alarms, a dashboard."""

from __future__ import annotations

from typing import Any, Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from cdk.alarms import alarms
from cdk.settings import Settings
from service.customer.contract import METRICS_DIMENSION, METRICS_NAMESPACE
from service.customer.errors import ERRORS

MINUTE: Final = Duration.minutes(1)


class Metrics:
    """The metrics of one deployment, a value a minute."""

    def __init__(self, settings: Settings, service: ecs.FargateService, table: dynamodb.ITable) -> None:
        self._settings = settings
        self._table = table
        self.cpu = service.metric_cpu_utilization(period=MINUTE)
        self.memory = service.metric_memory_utilization(period=MINUTE)

    def own(self, name: str, statistic: str) -> cloudwatch.Metric:
        """One that the service reports: a value of each task, each minute."""
        return self._metric(METRICS_NAMESPACE, name, {METRICS_DIMENSION: self._settings.table_name}, statistic)

    def throttles(self) -> cloudwatch.Metric:
        return self._metric("AWS/DynamoDB", "ReadThrottleEvents", {"TableName": self._table.table_name}, "Sum")

    def _metric(self, namespace: str, name: str, dimensions: dict[str, Any], statistic: str) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=namespace, metric_name=name, dimensions_map=dimensions, statistic=statistic, period=MINUTE
        )


class Observability(Construct):
    """What operators look at, and what wakes them."""

    def __init__(
        self, scope: Construct, id_: str, settings: Settings, *, service: ecs.FargateService, table: dynamodb.ITable
    ) -> None:
        super().__init__(scope, id_)
        self.metrics = Metrics(settings, service, table)
        alarms(self, settings, self.metrics)
        if settings.dashboard:
            self._dashboard(settings.stack_name)

    def _dashboard(self, name: str) -> None:
        def graph(title: str, *metrics: cloudwatch.IMetric) -> cloudwatch.GraphWidget:
            return cloudwatch.GraphWidget(title=title, left=list(metrics), width=8, height=6)

        seen = self.metrics
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=name,
            widgets=[
                [
                    graph("Requests a minute", seen.own("Requests", "Sum")),
                    graph("Errors a minute, by code", *(seen.own(error.description, "Sum") for error in ERRORS)),
                    graph("Latency, slowest task", *(seen.own(f"LatencyP{q}", "Maximum") for q in (50, 99))),
                ],
                [
                    graph("In flight per task", seen.own("InFlight", "Average")),
                    graph("Time without credit, percent", seen.own("TimeWithoutCredit", "Average")),
                    graph(
                        "Events pending and dropped", *(seen.own(f"Events{x}", "Sum") for x in ("Pending", "Dropped"))
                    ),
                ],
                [
                    graph(
                        "Tasks serving, and with events flowing",
                        seen.own("Serving", "Sum"),
                        seen.own("EventsFlowing", "Sum"),
                    ),
                    graph("CPU and memory", seen.cpu, seen.memory),
                    graph("Keys per BatchGetItem; table throttles", seen.own("BatchSize", "Average"), seen.throttles()),
                ],
            ],
        )
