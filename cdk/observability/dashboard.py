"""What operators see: the alarms of the role `customer`, and the dashboard of it and of `devices`."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from cdk.observability.alarms import Alarms, of_customer
from cdk.observability.metrics import Metrics, own
from deploy.settings import Settings
from service.customer.metrics import UNITS
from service.requests.errors import ERRORS

ERROR_METRICS: Final = tuple(error.description for error in ERRORS if error.description in UNITS)


class Observability(Construct):
    """The dashboard that operators look at, and the alarms that wake them."""

    def __init__(
        self, scope: Construct, id_: str, alarms: Alarms, *, service: ecs.FargateService, table: dynamodb.ITable
    ) -> None:
        super().__init__(scope, id_)
        settings = alarms.settings
        self.metrics = Metrics(settings, service, table)
        of_customer(alarms, self, self.metrics)
        if settings.dashboard:
            self._dashboard(settings)

    def _dashboard(self, settings: Settings) -> None:
        seen = self.metrics
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=settings.stack_name,
            widgets=[
                [
                    graph("Requests a minute", seen.own("Requests", "Sum")),
                    graph("Errors a minute, by code", *(seen.own(name, "Sum") for name in ERROR_METRICS)),
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
                [
                    graph(
                        "Adjustments: conflicts, and unknown outcomes",
                        seen.own("AdjustmentConflicts", "Sum"),
                        seen.own("AdjustmentsUnknown", "Sum"),
                    ),
                ],
                *([_of_devices(settings.readings_table_name)] if settings.devices.enabled else []),
            ],
        )


def _of_devices(table: str) -> list[cloudwatch.IWidget]:
    shown = {
        "Devices: readings a minute, readings that wait, dead letters": {
            "DevicesReadings": "Sum", "DevicesReadingsWaiting": "Maximum", "DevicesDeadLetters": "Sum",
        },
        "Devices: seconds that a reading and an outage wait, and without any reading": {
            "DevicesReadingAge": "Maximum", "DevicesOutageAge": "Maximum", "DevicesSilence": "Minimum",
        },
        "Devices online; reports that failed": {"DevicesOnline": "Maximum", "DevicesReportFailures": "Sum"},
    }  # fmt: skip
    return [
        graph(title, *(own(name, table, statistic) for name, statistic in metrics.items()))
        for title, metrics in shown.items()
    ]


def graph(title: str, *metrics: cloudwatch.IMetric) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=list(metrics), width=8, height=6)
