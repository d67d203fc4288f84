"""The template says what the deployment is to be, whatever the settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cfnlint
import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk.assertions import Match, Template
from aws_cdk.aws_ecr_assets import DockerImageAsset

from cdk import nag
from cdk.settings import Settings
from cdk.stack import BalanceStack
from local.process import ROOT
from service.customer.contract import METRICS_NAMESPACE
from service.customer.errors import ERRORS

_made: dict[str, Template] = {}


def settings(**changes: Any) -> Settings:
    return Settings(**{"region": "eu-west-1", "initials": "TT", **changes})


def template(**changes: Any) -> Template:
    """The template for some settings; made once for each."""
    key = json.dumps(changes, sort_keys=True)
    if key not in _made:
        app = App()
        image = ecs.ContainerImage.from_registry("registry.example/customer-balance:1")
        given = settings(**changes)
        stack = BalanceStack(app, given.stack_name, given, image=image)
        nag.check(app, stack)
        _made[key] = Template.from_stack(stack)
    return _made[key]


def resources(made: Template, kind: str) -> list[dict[str, Any]]:
    return [dict(found) for found in made.find_resources(kind).values()]


def only(made: Template, kind: str) -> dict[str, Any]:
    (found,) = resources(made, kind)
    properties: dict[str, Any] = found["Properties"]
    return properties


def container(made: Template) -> dict[str, Any]:
    (found,) = only(made, "AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    definition: dict[str, Any] = found
    return definition


def test_the_table() -> None:
    made = template()
    table = only(made, "AWS::DynamoDB::Table")
    assert table["TableName"] == "customer-balances-TT"
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    assert table["AttributeDefinitions"] == [{"AttributeName": "id", "AttributeType": "S"}]
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


@pytest.mark.parametrize(("environment", "policy"), [("poc", "Delete"), ("production", "Retain")])
def test_what_destroy_leaves(environment: str, policy: str) -> None:
    made = template(environment=environment)
    for kind in ("AWS::DynamoDB::Table", "AWS::Logs::LogGroup"):
        for found in resources(made, kind):
            assert (found["DeletionPolicy"], found["UpdateReplacePolicy"]) == (policy, policy)
    protected = only(made, "AWS::DynamoDB::Table").get("DeletionProtectionEnabled", False)
    assert protected is (environment == "production")


def test_private_subnets_behind_one_nat_gateway() -> None:
    made = template()
    made.resource_count_is("AWS::EC2::NatGateway", 1)
    made.resource_count_is("AWS::EC2::Subnet", 4)
    configuration = only(made, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert configuration["AssignPublicIp"] == "DISABLED"


def test_public_subnets_without_nat() -> None:
    made = template(network="public")
    made.resource_count_is("AWS::EC2::NatGateway", 0)
    made.resource_count_is("AWS::EC2::Subnet", 2)
    configuration = only(made, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert configuration["AssignPublicIp"] == "ENABLED"


@pytest.mark.parametrize("network", ["private", "public"])
def test_nothing_comes_in_and_little_goes_out(network: str) -> None:
    made = template(network=network)
    group = only(made, "AWS::EC2::SecurityGroup")
    assert "SecurityGroupIngress" not in group
    made.resource_count_is("AWS::EC2::SecurityGroupIngress", 0)
    assert sorted(rule["FromPort"] for rule in group["SecurityGroupEgress"]) == [443, 4222]
    for kind in ("AWS::ElasticLoadBalancingV2::LoadBalancer", "AWS::ServiceDiscovery::Service"):
        made.resource_count_is(kind, 0)
    made.has_resource_properties(
        "AWS::EC2::VPCEndpoint", {"VpcEndpointType": "Gateway", "ServiceName": Match.any_value()}
    )


def test_the_service_and_how_it_rolls() -> None:
    service = only(template(), "AWS::ECS::Service")
    assert (service["DesiredCount"], service["LaunchType"]) == (3, "FARGATE")
    deployment = service["DeploymentConfiguration"]
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert (deployment["MinimumHealthyPercent"], deployment["MaximumPercent"]) == (100, 200)
    assert service["AvailabilityZoneRebalancing"] == "ENABLED"
    assert "LoadBalancers" not in service


def test_spot_is_for_what_is_over_the_minimum() -> None:
    service = only(template(spot=True), "AWS::ECS::Service")
    assert service["CapacityProviderStrategy"] == [
        {"CapacityProvider": "FARGATE", "Base": 3, "Weight": 0},
        {"CapacityProvider": "FARGATE_SPOT", "Weight": 1},
    ]
    assert "LaunchType" not in service


@pytest.mark.parametrize(("architecture", "name"), [("arm64", "ARM64"), ("x86-64", "X86_64")])
def test_the_task_definition(architecture: str, name: str) -> None:
    definition = only(template(architecture=architecture), "AWS::ECS::TaskDefinition")
    assert (definition["Cpu"], definition["Memory"]) == ("512", "1024")
    assert definition["RuntimePlatform"] == {"CpuArchitecture": name, "OperatingSystemFamily": "LINUX"}
    assert definition["NetworkMode"] == "awsvpc"


def test_the_container() -> None:
    found = container(template(shutdown_timeout=40))
    assert found["ReadonlyRootFilesystem"] is True
    assert found["User"] == "10001:10001"
    assert found["StopTimeout"] == 45, "longer than the drain"
    assert found["HealthCheck"]["Command"] == ["CMD", "python", "-m", "service.healthcheck"]
    environment = {pair["Name"]: pair["Value"] for pair in found["Environment"]}
    assert environment["SHUTDOWN_TIMEOUT"] == "40"
    assert environment["LOG_FORMAT"] == "json"
    assert environment.keys() == {
        "NATS_URL", "DDB_TABLE", "AWS_REGION", "SEED_ROWS", "MAX_IN_FLIGHT", "HEALTH_PORT", "SHUTDOWN_TIMEOUT",
        "LOG_FORMAT",
    }  # fmt: skip


def test_the_secret_is_referenced_whole_and_never_made() -> None:
    made = template()
    made.resource_count_is("AWS::SecretsManager::Secret", 0)
    assert container(made)["Secrets"] == [{"Name": "NATS_CREDENTIALS", "ValueFrom": {"Ref": "NatsSecretArn"}}]
    text = json.dumps(made.to_json())
    assert "resolve:secretsmanager" not in text
    assert 'GetAtt": ["NatsCreds' not in text


def statements(made: Template, role: str) -> list[dict[str, Any]]:
    found = []
    for policy in resources(made, "AWS::IAM::Policy"):
        if any(role in attached["Ref"] for attached in policy["Properties"]["Roles"]):
            found += policy["Properties"]["PolicyDocument"]["Statement"]
    return found


def test_the_task_may_do_what_the_service_does_and_no_more() -> None:
    (statement,) = statements(template(), "TaskRole")
    assert statement["Action"] == ["dynamodb:BatchGetItem", "dynamodb:PutItem"]
    assert list(statement["Resource"]) == ["Fn::GetAtt"]


def test_the_execution_role_reads_that_one_secret() -> None:
    reading = [
        statement
        for statement in statements(template(), "ExecutionRole")
        if any(action.startswith("secretsmanager:") for action in statement["Action"])
    ]
    assert [statement["Resource"] for statement in reading] == [{"Ref": "NatsSecretArn"}]


def test_the_cluster_is_observed_and_rejected_traffic_is_logged() -> None:
    made = template()
    assert {"Name": "containerInsights", "Value": "enhanced"} in only(made, "AWS::ECS::Cluster")["ClusterSettings"]
    assert only(made, "AWS::EC2::FlowLog")["TrafficType"] == "REJECT"


def test_scaling_is_on_cpu_and_on_requests_in_flight() -> None:
    made = template(min_tasks=2, tasks=3, max_tasks=9, target_cpu=55, target_in_flight=70)
    target = only(made, "AWS::ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 9)
    policies = [
        found["Properties"]["TargetTrackingScalingPolicyConfiguration"]
        for found in resources(made, "AWS::ApplicationAutoScaling::ScalingPolicy")
    ]
    assert sorted(policy["TargetValue"] for policy in policies) == [55, 70]
    (custom,) = [policy["CustomizedMetricSpecification"] for policy in policies if policy["TargetValue"] == 70]
    assert (custom["Namespace"], custom["MetricName"], custom["Statistic"]) == (
        METRICS_NAMESPACE,
        "InFlight",
        "Average",
    )
    assert custom["Dimensions"] == [{"Name": "Table", "Value": "customer-balances-TT"}]


def test_alarms_say_what_to_do() -> None:
    alarms = {
        found["Properties"]["AlarmName"]: found["Properties"]
        for found in resources(template(), "AWS::CloudWatch::Alarm")
    }
    names = ("NoTaskReady", "ErrorRate", "EventsDropped", "EventsPending", "TableThrottled")
    assert alarms.keys() == {f"CustomerBalance-TT-{name}" for name in names}
    for alarm in alarms.values():
        assert len(alarm["AlarmDescription"]) > 80
    nobody = alarms["CustomerBalance-TT-NoTaskReady"]
    assert (nobody["TreatMissingData"], nobody["ComparisonOperator"]) == ("breaching", "LessThanThreshold")


def test_the_error_rate_does_not_mix_a_series_with_a_number() -> None:
    """CloudWatch: "Unsupported operand type(s) for MAX: '[Array[TimeSeries, Scalar]]'", and the stack rolls back."""
    (rate,) = [
        query["Expression"]
        for found in resources(template(), "AWS::CloudWatch::Alarm")
        for query in found["Properties"].get("Metrics", ())
        if "Expression" in query
    ]
    assert rate == "IF(requests > 0, 100 * (e0 + e1 + e2) / requests, 0)"


def test_the_dashboard_shows_what_operators_ask_for() -> None:
    text = json.dumps(only(template(), "AWS::CloudWatch::Dashboard"))
    for metric in (
        "Requests", *(error.description for error in ERRORS),
        "LatencyP50", "LatencyP99", "InFlight", "BatchSize", "EventsPending", "EventsDropped",
        "RunningTaskCount", "Ready", "ReadThrottleEvents",
    ):  # fmt: skip
        assert metric in text


def test_everything_is_tagged_and_named_after_its_owner() -> None:
    made = template()
    wanted = {"project": "customer-balance", "environment": "poc", "owner": "TT"}
    for kind in ("AWS::DynamoDB::Table", "AWS::ECS::Cluster", "AWS::ECS::Service", "AWS::EC2::VPC"):
        for found in resources(made, kind):
            assert wanted.items() <= {tag["Key"]: tag["Value"] for tag in found["Properties"]["Tags"]}.items()
    other = template(initials="AB")
    assert only(other, "AWS::DynamoDB::Table")["TableName"] == "customer-balances-AB"


@pytest.mark.parametrize("changes", [{}, {"network": "public", "spot": True, "environment": "production"}])
def test_cfn_lint_finds_nothing(changes: dict[str, Any]) -> None:
    found = cfnlint.lint(json.dumps(template(**changes).to_json()), regions=["eu-west-1", "us-east-1"])
    assert [str(match) for match in found] == []


def test_the_builder_is_given_the_service_and_no_credential(tmp_path: Path) -> None:
    """Whatever lies about in the project's folder, what is staged for the image is what the image is made of."""
    project = tmp_path / "project"
    for name in ("service", "requirements"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, project / name)
    for path in ("cdk/config/service.creds", "service/stray.creds", ".env", "service/config/x.token", ".local/keys/a"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text("-----BEGIN USER NKEY SEED-----\nSUACANARY\n")
    app = App(outdir=str(tmp_path / "out"))
    DockerImageAsset(Stack(app, "S"), "Image", directory=str(project))
    app.synth()
    staged = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len([path for path in staged if path.suffix == ".py"]) > 10
    assert [path for path in staged if b"CANARY" in path.read_bytes()] == []
    (asset,) = (tmp_path / "out").glob("asset.*")
    kinds = {path.relative_to(asset).parts[0] for path in asset.rglob("*") if path.is_file()}
    assert kinds == {"service", "requirements", "Dockerfile", ".dockerignore"}


def test_no_secret_is_in_the_template() -> None:
    made = json.dumps(template(tasks=4).to_json())
    for marker in ("BEGIN USER", "SUA", "eyJ", "nhg_"):
        assert marker not in made
