"""What costs money in a template: kinds of resources, and the calls that its tasks may make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cdk.stack.table import KEY_ACTIONS
from control_plane.errors import ProvisioningError

FILE: Final = Path(__file__).with_name("prices.toml")

_PAID: Final = frozenset({
    "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard", "AWS::EC2::EIP", "AWS::EC2::FlowLog",
    "AWS::EC2::NatGateway", "AWS::ApplicationAutoScaling::ScalingPolicy", "AWS::DynamoDB::Table", "AWS::ECS::Service",
    "AWS::ECS::TaskDefinition", "AWS::Logs::LogGroup",
    "AWS::ServiceDiscovery::PrivateDnsNamespace",  # a hosted zone
})  # fmt: skip
_FREE: Final = frozenset({
    "AWS::ApplicationAutoScaling::ScalableTarget", "AWS::CDK::Metadata", "AWS::EC2::InternetGateway", "AWS::EC2::Route",
    "AWS::EC2::RouteTable", "AWS::EC2::SecurityGroup", "AWS::EC2::Subnet", "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPC", "AWS::EC2::VPCGatewayAttachment", "AWS::ECS::Cluster",
    "AWS::ECS::ClusterCapacityProviderAssociations", "AWS::IAM::Policy", "AWS::IAM::Role",
    "AWS::EC2::VPCEndpoint",  # a gateway endpoint
    "AWS::SQS::Queue", "AWS::SQS::QueuePolicy",  # its requests are charged: some for each message
    "AWS::ServiceDiscovery::Service",  # each look-up costs a fraction of a cent, and is cached for its TTL
    "AWS::SNS::Subscription", "AWS::SNS::Topic", "AWS::SNS::TopicPolicy",  # 1,000 e-mails a month are free
})  # fmt: skip
_READERS: Final = {"ARCHIVE_SOURCE": "archive", "QUEUE": "queue"}
"""Environment variables that set what a role reads -> the role."""

_PAID_CALLS: Final = frozenset({
    "dynamodb:BatchGetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:BatchWriteItem", "dynamodb:Query",
    "dynamodb:Scan",
    "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes",
})  # fmt: skip
_FREE_CALLS: Final = frozenset({
    # Called once per task start: a fraction of a cent.
    "dynamodb:DescribeTable", "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue", "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage",
    "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer",
    # Charged by the gigabyte.
    "logs:CreateLogStream", "logs:DescribeLogGroups", "logs:DescribeLogStreams", "logs:PutLogEvents",
    # For a shell in a task.
    "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
    "iam:PassRole",
    *KEY_ACTIONS,  # DynamoDB caches a table's key for minutes
})  # fmt: skip


class Resources:
    """The properties of a template's resources, by kind."""

    def __init__(self, resources: Mapping[str, Any]) -> None:
        self._properties: dict[str, list[Mapping[str, Any]]] = {}
        for resource in resources.values():
            self._properties.setdefault(resource["Type"], []).append(resource.get("Properties", {}))
        unknown = sorted(self._properties.keys() - _PAID - _FREE)
        if unknown:
            raise ProvisioningError(f"{', '.join(unknown)}: no price in {FILE.name}; add it to cdk/cost/billable.py")
        allowed = {action for policy in self.all("AWS::IAM::Policy") for action in _actions(policy)}
        if unpriced := sorted(allowed - _PAID_CALLS - _FREE_CALLS):
            raise ProvisioningError(f"{', '.join(unpriced)}: no price in {FILE.name}; add it to cdk/cost/billable.py")

    def readers_of_the_stream(self) -> list[str]:
        return [role for role, source in self._sources() if source.startswith("jetstream:")]

    def readers_of_a_queue(self) -> list[str]:
        return [role for role, source in self._sources() if not source.startswith("jetstream:")]

    def secrets(self) -> set[str]:
        """Return the secrets that containers take values from; parameters name some, the settings name others."""
        return {
            _secret(entry["ValueFrom"])
            for definition in self.all("AWS::ECS::TaskDefinition")
            for container in definition["ContainerDefinitions"]
            for entry in container.get("Secrets", ())
        }

    def _sources(self) -> Iterator[tuple[str, str]]:
        """Yield each role that reads messages, and its source; a queue's URL is an expression."""
        for definition in self.all("AWS::ECS::TaskDefinition"):
            for variable in definition["ContainerDefinitions"][0]["Environment"]:
                if role := _READERS.get(variable["Name"]):
                    yield role, str(variable["Value"])

    def all(self, kind: str) -> list[Mapping[str, Any]]:
        return self._properties.get(kind, [])

    def count(self, kind: str) -> int:
        return len(self.all(kind))

    def only(self, kind: str) -> Mapping[str, Any]:
        (found,) = self.all(kind)
        return found


def _actions(policy: Mapping[str, Any]) -> Iterator[str]:
    for statement in policy["PolicyDocument"]["Statement"]:
        actions = statement["Action"]
        yield from [actions] if isinstance(actions, str) else actions


def _secret(value_from: Any) -> str:
    """Return the ARN, or the parameter that holds it, without a key of the secret's JSON object.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html
    """
    return ":".join(value_from.split(":")[:7]) if isinstance(value_from, str) else str(value_from)
