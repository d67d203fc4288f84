"""The VPC: two zones, a way to DynamoDB that leaves AWS' network for nothing, and no way in."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.settings import Settings

NATS_PORT = 4222
HTTPS_PORT = 443


class Network(Construct):
    """Where the tasks are, and what they may reach: NATS, HTTPS and nothing else; nobody reaches them."""

    def __init__(self, scope: Construct, id_: str, settings: Settings, removal: RemovalPolicy) -> None:
        super().__init__(scope, id_)
        public = settings.network == "public"
        self.public = public
        subnets = [ec2.SubnetConfiguration(name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=24)]
        if not public:
            kind = ec2.SubnetType.PRIVATE_WITH_EGRESS
            subnets.append(ec2.SubnetConfiguration(name="private", subnet_type=kind, cidr_mask=24))
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=2,
            nat_gateways=0 if public else 1,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
        )
        self.vpc.add_gateway_endpoint("DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB)
        flow_log = logs.LogGroup(self, "FlowLog", retention=logs.RetentionDays.ONE_WEEK, removal_policy=removal)
        role = iam.Role(self, "FlowLogRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"))
        self.vpc.add_flow_log(
            "Rejected",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(flow_log, role),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
        self.security_group = ec2.SecurityGroup(
            self,
            "Tasks",
            vpc=self.vpc,
            allow_all_outbound=False,
            description="Tasks: out to NATS and HTTPS, nothing in",
        )
        for port, what in ((NATS_PORT, "NATS"), (HTTPS_PORT, "AWS APIs and the image registry")):
            self.security_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), what)

    @property
    def subnets(self) -> ec2.SubnetSelection:
        kind = ec2.SubnetType.PUBLIC if self.public else ec2.SubnetType.PRIVATE_WITH_EGRESS
        return ec2.SubnetSelection(subnet_type=kind)
