"""What a month of the synthesized template costs, item by item, at list prices (cdk/cost/prices.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cdk.cost.billable import FILE, Resources
from control_plane.errors import ProvisioningError
from service.archive import metrics as archive_metrics
from service.contracts.cloudwatch import METRICS_DIMENSION, METRICS_NAMESPACE
from service.customer import backlog
from service.customer.metrics import UNITS
from service.devices import figures as devices_figures
from service.runtime.telemetry.emf import Emitter, Figures

CUSTOMER: Final = "customer"
GB: Final = 1e9
MIB_PER_GB: Final = 1024
BYTES_PER_READ: Final = 4096
DAYS_PER_MONTH: Final = 30
ALARMS_PER_TRACKING_POLICY: Final = 2
"""Alarms that Application Auto Scaling creates for each target tracking policy: one to scale out, one to scale in."""


@dataclass(frozen=True)
class Item:
    """One line of the bill."""

    name: str
    quantity: str
    dollars: float


@dataclass(frozen=True)
class Bill:
    """The cost of a template for a month, without and with requests."""

    items: tuple[Item, ...]
    tasks: int
    requests: tuple[Item, ...]
    """What a million more requests cost, with everything that they cause."""

    others: tuple[Item, ...]
    """What a million other calls cost: clients created, messages of an SQS queue."""

    capacity_per_month: float
    """Requests that the tasks could answer if they did nothing else."""

    @property
    def dollars(self) -> float:
        return sum(item.dollars for item in self.items)

    @property
    def dollars_per_million(self) -> float:
        return sum(item.dollars for item in self.requests)

    def per_million(self, utilisation: float) -> float:
        """Return dollars for a million requests, with their share of the month, at this utilisation of the tasks."""
        return self.dollars / (self.capacity_per_month * utilisation / 1e6) + self.dollars_per_million


@dataclass(frozen=True)
class _Service:
    """An ECS service with its task definition. One that scales from zero costs nothing at rest."""

    role: str
    tasks: int
    on_spot: int
    spot: bool
    """True if tasks beyond its base run on Spot."""

    vcpus: float
    gb: float
    architecture: str
    is_public: bool

    @classmethod
    def of(cls, service: Mapping[str, Any], resources: Mapping[str, Any]) -> _Service:
        definition = resources[service["TaskDefinition"]["Ref"]]["Properties"]
        commands = [container.get("Command", [""])[0] for container in definition["ContainerDefinitions"]]
        count = service["DesiredCount"]
        tasks = int(count["Fn::If"][1] if isinstance(count, dict) else count)
        strategy = {part["CapacityProvider"]: part for part in service.get("CapacityProviderStrategy", ())}
        return cls(
            role=commands[0],
            tasks=tasks,
            on_spot=max(0, tasks - strategy["FARGATE"]["Base"]) if "FARGATE_SPOT" in strategy else 0,
            spot="FARGATE_SPOT" in strategy,
            vcpus=int(definition["Cpu"]) / 1024,
            gb=int(definition["Memory"]) / MIB_PER_GB,
            architecture="arm64" if definition["RuntimePlatform"]["CpuArchitecture"] == "ARM64" else "x86-64",
            is_public=service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "ENABLED",
        )

    def items(self, prices: Mapping[str, Any]) -> Iterator[Item]:
        price, discount = prices["fargate"][self.architecture], prices["fargate"]["spot_discount"]
        month = (self.vcpus * price["vcpu_hour"] + self.gb * price["gb_hour"]) * prices["hours_per_month"]
        always, size = self.tasks - self.on_spot, f"{self.vcpus:g} vCPU, {self.gb:g} GB"
        yield Item(f"tasks of {self.role}, {self.architecture}", f"{always} x {size}", always * month)
        if self.role == CUSTOMER or self.on_spot:
            name = f"  on Spot, {discount:.0%} off"
            yield Item(name, f"{self.on_spot} x {size}", self.on_spot * month * (1 - discount))


def load_prices(path: Path = FILE) -> Mapping[str, Any]:
    return tomllib.loads(path.read_text())


def bill(template: Mapping[str, Any], prices: Mapping[str, Any]) -> Bill:
    """Return the bill. Raises `ProvisioningError` if a resource, or a call that a task may make, has no price."""
    found = Resources(template["Resources"])
    services = [_Service.of(service, template["Resources"]) for service in found.all("AWS::ECS::Service")]
    customer = next(service for service in services if service.role == CUSTOMER)
    tasks = sum(service.tasks for service in services)
    hours, use = prices["hours_per_month"], prices["use"]
    network, other = prices["network"], prices["other"]
    images_gb = len({service.architecture for service in services}) * use["image_gb"]
    secrets, zones = len(found.secrets()), found.count("AWS::ServiceDiscovery::PrivateDnsNamespace")
    nats = found.count("AWS::EC2::NatGateway")
    addresses = found.count("AWS::EC2::EIP") + sum(service.tasks for service in services if service.is_public)
    items = (
        *(item for service in services for item in service.items(prices)),
        Item("public IPv4 addresses", str(addresses), addresses * network["public_ipv4_hour"] * hours),
        Item("NAT gateways", str(nats), nats * network["nat_gateway_hour"] * hours),
        *_cloudwatch(found, prices, services),
        Item("secrets", str(secrets), secrets * other["secret_month"]),
        *([Item("hosted zones", str(zones), zones * network["hosted_zone_month"])] if zones else ()),
        Item("images in ECR", f"{images_gb:g} GB", images_gb * other["image_gb_month"]),
        Item("table, and its recovery", f"{use['table_gb']:g} GB", use["table_gb"] * other["table_gb_month"]),
    )
    return Bill(
        items=items,
        tasks=tasks,
        requests=tuple(_requests(found, prices, through_nat=nats > 0)),
        others=tuple(_others(found, prices, services, through_nat=nats > 0)),
        capacity_per_month=customer.tasks * customer.vcpus * use["requests_per_second_per_vcpu"] * hours * 3600,
    )


def _cloudwatch(found: Resources, prices: Mapping[str, Any], services: Sequence[_Service]) -> Iterator[Item]:
    price, use = prices["cloudwatch"], prices["use"]
    tasks, metrics = sum(service.tasks for service in services), _metrics(found, services)
    watched = sum(_metrics_of(alarm) for alarm in found.all("AWS::CloudWatch::Alarm"))
    policies = found.all("AWS::ApplicationAutoScaling::ScalingPolicy")
    tracked = ALARMS_PER_TRACKING_POLICY * sum(policy["PolicyType"] == "TargetTrackingScaling" for policy in policies)
    dashboards = found.count("AWS::CloudWatch::Dashboard")
    minutes = prices["hours_per_month"] * 60
    own_gb = tasks * minutes * _line_bytes() / GB
    rejected_gb = found.count("AWS::EC2::FlowLog") * tasks * minutes * use["rejected_packets_per_minute"]
    rejected_gb *= use["bytes_per_flow_log_record"] / GB
    days = max(group["RetentionInDays"] for group in found.all("AWS::Logs::LogGroup"))
    stored = (own_gb + rejected_gb) * days / DAYS_PER_MONTH * price["log_storage_gb_month"]
    yield Item("Container Insights", _container_insights(found), 0.0)
    yield Item("metrics", str(metrics), metrics * price["metric_month"])
    yield Item("alarms, by metric", str(watched), watched * price["alarm_metric_month"])
    yield Item("alarms of autoscaling", str(tracked), tracked * price["alarm_metric_month"])
    yield Item("dashboard", str(dashboards), dashboards * price["dashboard_month"])
    yield Item("log, and its storage", f"{own_gb:.2f} GB", own_gb * price["log_gb"] + stored)
    yield Item("log of rejected packets", f"{rejected_gb:.2f} GB", rejected_gb * price["log_gb"])


def _container_insights(found: Resources) -> str:
    settings = found.only("AWS::ECS::Cluster")["ClusterSettings"]
    if settings != [{"Name": "containerInsights", "Value": "disabled"}]:
        raise ProvisioningError(f"Container Insights has no price in {FILE.name}; add it, and count its metrics")
    return "off"


def _metrics_of(alarm: Mapping[str, Any]) -> int:
    """Count the metrics that an alarm is charged for: each one in its expression."""
    return sum("MetricStat" in query for query in alarm["Metrics"]) if "Metrics" in alarm else 1


def _line_bytes() -> int:
    """Return the size of the line that a task logs each minute."""
    figures = {name: (1234.5678, unit) for name, unit in UNITS.items()}
    emitter = Emitter(Figures(METRICS_NAMESPACE, (METRICS_DIMENSION, "customer-balances-XX"), lambda: figures))
    return len(emitter.line()) + 1


def _metrics(found: Resources, services: Sequence[_Service]) -> int:
    """Count the metrics that the roles report; `customer` also reports the backlogs of the stream's readers."""
    roles = {service.role for service in services}
    waiting = [
        name for name in backlog.UNITS for role in found.readers_of_the_stream() if name.startswith(role.title())
    ]
    optional = {"archive": archive_metrics.UNITS, "devices": devices_figures.UNITS}
    return len(UNITS) + len(waiting) + sum(len(units) for role, units in optional.items() if role in roles)


def _requests(found: Resources, prices: Mapping[str, Any], *, through_nat: bool) -> Iterator[Item]:
    """Yield what a million requests cost: each answer is an event, which the stream's readers receive."""
    use, network, other = prices["use"], prices["network"], prices["other"]
    readers = found.readers_of_the_stream()
    out_gb = use["bytes_out_per_request"] * 1e6 / GB
    in_gb = (use["bytes_in_per_request"] + len(readers) * use["bytes_per_event"]) * 1e6 / GB
    nat_gb = out_gb + in_gb if through_nat else 0.0
    yield Item("reads", "0.5 M units", other["read_million"] / 2)
    yield Item("bytes out", f"{out_gb:.2f} GB", out_gb * network["internet_gb"])
    yield Item("bytes through NAT", f"{nat_gb:.2f} GB", nat_gb * network["nat_gateway_gb"])
    if "archive" in readers:
        yield from _rows(prices, "archived rows")


def _others(
    found: Resources, prices: Mapping[str, Any], services: Sequence[_Service], *, through_nat: bool
) -> Iterator[Item]:
    use, other = prices["use"], prices["other"]
    yield Item("clients made, a million", "1 M writes", other["write_million"])
    # The balance, the row and its index, two writes each; adjustments in one transaction share the balance's.
    yield Item("adjustments, a million", "6 M writes", 6 * other["write_million"])
    kept_gb = 2 * use["adjustment_bytes"] * 1e6 / GB
    yield Item("  their rows, kept a month", f"{kept_gb:.2f} GB", kept_gb * other["table_gb_month"])
    pages = use["read_units_per_statement"]
    yield Item("statements, a million", f"{pages:g} M units", pages * other["read_million"])
    for role in found.readers_of_a_queue():
        calls = use["sqs_calls_per_message"]
        gb = use["bytes_per_event"] * 1e6 / GB if through_nat else 0.0
        dollars = calls * other["sqs_million"] + gb * prices["network"]["nat_gateway_gb"]
        yield Item(f"messages of {role}, a million", f"{calls:g} M calls", dollars)
        if role == "archive":
            yield from _rows(prices, "  rows of archive")
    for service in services:
        if service.role == "devices":
            yield from _readings(prices, through_nat=through_nat)
        if service.role == "archive":
            yield from _hour_of_archive(service, prices, on_sqs="archive" in found.readers_of_a_queue())


def _hour_of_archive(service: _Service, prices: Mapping[str, Any], *, on_sqs: bool) -> Iterator[Item]:
    """Yield what the archive costs while there is a backlog: a task, its address, and its calls to the queue."""
    (task, *_) = replace(service, tasks=1, on_spot=0).items(prices)
    share = 1 - prices["fargate"]["spot_discount"] if service.spot else 1.0
    hour = task.dollars / prices["hours_per_month"] * share
    address = prices["network"]["public_ipv4_hour"] if service.is_public else 0.0
    yield Item("an hour of a task of archive", "while it works", hour + address)
    looks = prices["use"]["archive_looks_per_hour"] / 1e6 if on_sqs else 0.0
    yield Item("  its looks at the queue", f"{looks * 1e6:,.0f} calls", looks * prices["other"]["sqs_million"])


def _readings(prices: Mapping[str, Any], *, through_nat: bool) -> Iterator[Item]:
    """Yield what a million readings cost: to write, to keep, and to read once over gRPC."""
    use, other = prices["use"], prices["other"]
    gb = use["reading_bytes"] * 1e6 / GB
    nat = gb * prices["network"]["nat_gateway_gb"] if through_nat else 0.0
    yield Item("readings, a million", "1 M writes", other["write_million"] + nat)
    yield Item("  readings, kept a month", f"{gb:.2f} GB", gb * other["table_gb_month"])
    units = gb * GB / BYTES_PER_READ / 2 / 1e6  # eventually consistent: half a unit
    yield Item("  readings over gRPC", f"{units:.2f} M units", units * other["read_million"])


def _rows(prices: Mapping[str, Any], name: str) -> Iterator[Item]:
    stored_gb = prices["use"]["row_bytes"] * 1e6 / GB
    yield Item(name, "1 M", prices["other"]["write_million"])
    yield Item(f"{name}, kept a month", f"{stored_gb:.2f} GB", stored_gb * prices["other"]["table_gb_month"])
