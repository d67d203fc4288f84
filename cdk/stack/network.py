"""The VPC: it reaches DynamoDB through a gateway endpoint, which is free, and lets nothing in."""

from __future__ import annotations

from typing import Final

from aws_cdk import Fn, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.settings import HTTPS_PORT, Settings

NATS: Final = "NATS, or a collector of spans"
HTTPS: Final = "AWS APIs and the image registry"


class Network(Construct):
    """Where the tasks run, and what they may reach: NATS, HTTPS and nothing else. Nothing can reach them, except
    clients of a role that has a security group for them.
    """

    def __init__(self, scope: Construct, id_: str, settings: Settings, removal: RemovalPolicy) -> None:
        super().__init__(scope, id_)
        self.public = settings.network == "public"
        self.vpc: ec2.IVpc
        if settings.vpc_id:
            self.vpc, self.subnets = self._existing(settings)
        else:
            self.vpc, self.subnets = self._new(settings, removal)
        self.security_group = ec2.SecurityGroup(
            self,
            "Tasks",
            vpc=self.vpc,
            allow_all_outbound=False,
            description="Tasks: out to NATS and HTTPS, nothing in",
        )
        for port in settings.egress_ports:
            what = HTTPS if port == HTTPS_PORT else NATS
            self.security_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), what)

    def _existing(self, settings: Settings) -> tuple[ec2.IVpc, ec2.SubnetSelection]:
        subnets = [
            ec2.Subnet.from_subnet_id(self, f"Subnet{number}", id_) for number, id_ in enumerate(settings.subnet_ids, 1)
        ]
        vpc = ec2.Vpc.from_vpc_attributes(self, "Vpc", vpc_id=settings.vpc_id, availability_zones=_zones(len(subnets)))
        return vpc, ec2.SubnetSelection(subnets=subnets)

    def _new(self, settings: Settings, removal: RemovalPolicy) -> tuple[ec2.IVpc, ec2.SubnetSelection]:
        kind = ec2.SubnetType.PUBLIC if self.public else ec2.SubnetType.PRIVATE_WITH_EGRESS
        subnets = [ec2.SubnetConfiguration(name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=24)]
        if not self.public:
            subnets.append(ec2.SubnetConfiguration(name="private", subnet_type=kind, cidr_mask=24))
        vpc = ec2.Vpc(
            self,
            "Vpc",
            availability_zones=_zones(settings.zones),
            nat_gateways=0 if self.public else settings.zones,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
        )
        vpc.add_gateway_endpoint("DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB)
        flow_log = logs.LogGroup(self, "FlowLog", retention=logs.RetentionDays.ONE_WEEK, removal_policy=removal)
        role = iam.Role(self, "FlowLogRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"))
        vpc.add_flow_log(
            "Rejected",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(flow_log, role),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
        return vpc, ec2.SubnetSelection(subnet_type=kind)


def _zones(count: int) -> list[str]:
    """Return the region's first zones, by a CloudFormation function: their names differ between accounts."""
    return [Fn.select(number, Fn.get_azs()) for number in range(count)]
