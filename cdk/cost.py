"""What a month of the synthesized template costs, item by item, at list prices (cdk/prices.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.errors import ProvisioningError
from service.customer.contract import METRICS_DIMENSION, METRICS_NAMESPACE
from service.customer.metrics import UNITS
from service.runtime.emf import Emitter

FILE: Final = Path(__file__).with_name("prices.toml")
CUSTOMER: Final = "customer"
GB: Final = 1e9
MIB_PER_GB: Final = 1024
DAYS_PER_MONTH: Final = 30
ALARMS_PER_TRACKING_POLICY: Final = 2
"""Application Auto Scaling makes two for each target tracking policy: out and in."""

_PAID: Final = frozenset({
    "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard", "AWS::EC2::EIP", "AWS::EC2::FlowLog",
    "AWS::EC2::NatGateway", "AWS::ApplicationAutoScaling::ScalingPolicy", "AWS::DynamoDB::Table", "AWS::ECS::Service",
    "AWS::ECS::TaskDefinition", "AWS::Logs::LogGroup",
})  # fmt: skip
_FREE: Final = frozenset({
    "AWS::ApplicationAutoScaling::ScalableTarget", "AWS::CDK::Metadata", "AWS::EC2::InternetGateway", "AWS::EC2::Route",
    "AWS::EC2::RouteTable", "AWS::EC2::SecurityGroup", "AWS::EC2::Subnet", "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPC", "AWS::EC2::VPCGatewayAttachment", "AWS::ECS::Cluster",
    "AWS::ECS::ClusterCapacityProviderAssociations", "AWS::IAM::Policy", "AWS::IAM::Role",
    "AWS::EC2::VPCEndpoint",  # a gateway endpoint
    "AWS::SQS::Queue", "AWS::SQS::QueuePolicy",  # its requests are paid for: as many as there are messages
    "AWS::SNS::Subscription", "AWS::SNS::Topic", "AWS::SNS::TopicPolicy",  # 1,000 e-mails a month are free
})  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One line of the bill."""

    name: str
    quantity: str
    dollars: float


@dataclass(frozen=True)
class Bill:
    """A month of a template, without and with requests."""

    items: tuple[Item, ...]
    tasks: int
    dollars_per_million: float
    """What each further million requests costs: reads, and bytes that leave AWS."""

    capacity_per_month: float
    """Requests that the tasks answer when they do nothing else."""

    @property
    def dollars(self) -> float:
        return sum(item.dollars for item in self.items)

    def per_million(self, utilisation: float) -> float:
        """Dollars for a million requests, with its share of the month, at a share of the tasks' capacity."""
        return self.dollars / (self.capacity_per_month * utilisation / 1e6) + self.dollars_per_million


@dataclass(frozen=True)
class _Service:
    """An ECS service with its task definition. One that is scaled from zero costs nothing at rest."""

    role: str
    tasks: int
    vcpus: float
    gb: float
    architecture: str
    is_public: bool

    @classmethod
    def of(cls, service: Mapping[str, Any], resources: Mapping[str, Any]) -> _Service:
        definition = resources[service["TaskDefinition"]["Ref"]]["Properties"]
        commands = [container.get("Command", [""])[0] for container in definition["ContainerDefinitions"]]
        count = service["DesiredCount"]
        return cls(
            role=commands[0],
            tasks=int(count["Fn::If"][1] if isinstance(count, dict) else count),
            vcpus=int(definition["Cpu"]) / 1024,
            gb=int(definition["Memory"]) / MIB_PER_GB,
            architecture="arm64" if definition["RuntimePlatform"]["CpuArchitecture"] == "ARM64" else "x86-64",
            is_public=service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "ENABLED",
        )

    def item(self, prices: Mapping[str, Any]) -> Item:
        price = prices["fargate"][self.architecture]
        hourly = self.tasks * (self.vcpus * price["vcpu_hour"] + self.gb * price["gb_hour"])
        quantity = f"{self.tasks} x {self.vcpus:g} vCPU, {self.gb:g} GB"
        return Item(f"tasks of {self.role}, {self.architecture}", quantity, hourly * prices["hours_per_month"])


def load_prices(path: Path = FILE) -> Mapping[str, Any]:
    return tomllib.loads(path.read_text())


def bill(template: Mapping[str, Any], prices: Mapping[str, Any]) -> Bill:
    """Raises `ProvisioningError` for a kind of resource that has no price here."""
    found = _Resources(template["Resources"])
    services = [_Service.of(service, template["Resources"]) for service in found.all("AWS::ECS::Service")]
    customer = next(service for service in services if service.role == CUSTOMER)
    tasks = sum(service.tasks for service in services)
    hours, use = prices["hours_per_month"], prices["use"]
    network, other = prices["network"], prices["other"]
    nats = found.count("AWS::EC2::NatGateway")
    addresses = found.count("AWS::EC2::EIP") + sum(service.tasks for service in services if service.is_public)
    items = (
        *(service.item(prices) for service in services),
        Item("public IPv4 addresses", str(addresses), addresses * network["public_ipv4_hour"] * hours),
        Item("NAT gateways", str(nats), nats * network["nat_gateway_hour"] * hours),
        *_cloudwatch(found, prices, tasks),
        Item("secret", "1", other["secret_month"]),
        Item("image in ECR", f"{use['image_gb']:g} GB", use["image_gb"] * other["image_gb_month"]),
        Item("table, and its recovery", f"{use['table_gb']:g} GB", use["table_gb"] * other["table_gb_month"]),
    )
    return Bill(
        items=items,
        tasks=tasks,
        dollars_per_million=_per_million(prices, through_nat=nats > 0),
        capacity_per_month=customer.tasks * customer.vcpus * use["requests_per_second_per_vcpu"] * hours * 3600,
    )


def _cloudwatch(found: _Resources, prices: Mapping[str, Any], tasks: int) -> Iterator[Item]:
    price, use = prices["cloudwatch"], prices["use"]
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
    yield Item("metrics", str(len(UNITS)), len(UNITS) * price["metric_month"])
    yield Item("alarms, by metric", str(watched), watched * price["alarm_metric_month"])
    yield Item("alarms of autoscaling", str(tracked), tracked * price["alarm_metric_month"])
    yield Item("dashboard", str(dashboards), dashboards * price["dashboard_month"])
    yield Item("log, and its storage", f"{own_gb:.2f} GB", own_gb * price["log_gb"] + stored)
    yield Item("log of rejected packets", f"{rejected_gb:.2f} GB", rejected_gb * price["log_gb"])


def _container_insights(found: _Resources) -> str:
    settings = found.only("AWS::ECS::Cluster")["ClusterSettings"]
    if settings != [{"Name": "containerInsights", "Value": "disabled"}]:
        raise ProvisioningError(f"Container Insights has no price in {FILE.name}; add it, and count its metrics")
    return "off"


def _metrics_of(alarm: Mapping[str, Any]) -> int:
    """An alarm on an expression is paid for each metric in it."""
    return sum("MetricStat" in query for query in alarm["Metrics"]) if "Metrics" in alarm else 1


def _line_bytes() -> int:
    """Of the line that a task logs each minute."""
    figures = {name: (1234.5678, unit) for name, unit in UNITS.items()}
    emitter = Emitter(METRICS_NAMESPACE, (METRICS_DIMENSION, "customer-balances-XX"), lambda: figures)
    return len(emitter.line()) + 1


def _per_million(prices: Mapping[str, Any], *, through_nat: bool) -> float:
    use, network = prices["use"], prices["network"]
    out_gb, in_gb = (use[f"bytes_{way}_per_request"] * 1e6 / GB for way in ("out", "in"))
    nat = (out_gb + in_gb) * network["nat_gateway_gb"] if through_nat else 0.0
    return float(prices["other"]["read_million"] / 2 + out_gb * network["internet_gb"] + nat)


class _Resources:
    """The properties of a template's resources, by kind."""

    def __init__(self, resources: Mapping[str, Any]) -> None:
        self._properties: dict[str, list[Mapping[str, Any]]] = {}
        for resource in resources.values():
            self._properties.setdefault(resource["Type"], []).append(resource.get("Properties", {}))
        unknown = sorted(self._properties.keys() - _PAID - _FREE)
        if unknown:
            raise ProvisioningError(f"{', '.join(unknown)}: no price in {FILE.name}; add it to cdk/cost.py")

    def all(self, kind: str) -> list[Mapping[str, Any]]:
        return self._properties.get(kind, [])

    def count(self, kind: str) -> int:
        return len(self.all(kind))

    def only(self, kind: str) -> Mapping[str, Any]:
        (found,) = self.all(kind)
        return found
