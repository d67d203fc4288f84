"""The template says what the deployment is to be, whatever the settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from local.process import ROOT
from local.servers import dynamodb
from service.contracts.cloudwatch import METRICS_NAMESPACE
from service.customer.metrics import UNITS
from service.requests.errors import ERRORS
from tests.cdk.aws_rules import alarms
from tests.support.deploy.stack import Template, lint, resources, settings, template

pytestmark = pytest.mark.xdist_group("templates")  # one worker makes each once, in one Node

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd"


def only(made: Template, kind: str) -> dict[str, Any]:
    (found,) = resources(made, kind)
    properties: dict[str, Any] = found["Properties"]
    return properties


def table_of(made: Template, name: str = "balances") -> dict[str, Any]:
    (found,) = [each["Properties"] for each in resources(made, "AWS::DynamoDB::Table")
                if each["Properties"]["TableName"].startswith(f"customer-{name}-")]  # fmt: skip
    properties: dict[str, Any] = found
    return properties


def container(made: Template) -> dict[str, Any]:
    (found,) = only(made, "AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    definition: dict[str, Any] = found
    return definition


def test_the_table() -> None:
    made = template()
    table = table_of(made)
    assert table["TableName"] == "customer-balances-TT"
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    assert table["AttributeDefinitions"] == [{"AttributeName": "id", "AttributeType": "S"}]
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


def test_the_table_of_adjustments_is_the_one_that_the_service_looks_for() -> None:
    """As the local system makes it, which the tests run on."""
    made = template()
    table, local = table_of(made, "adjustments"), dynamodb.adjustments_definition("customer-adjustments-TT")
    assert (table["TableName"], table["KeySchema"]) == (local["TableName"], local["KeySchema"])
    assert table["LocalSecondaryIndexes"] == local["LocalSecondaryIndexes"]
    by_name = [sorted(given["AttributeDefinitions"], key=str) for given in (table, local)]
    assert by_name[0] == by_name[1]
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


@pytest.mark.parametrize(
    ("environment", "policy", "replaced"),
    [("poc", "Delete", "Delete"), ("production", "RetainExceptOnCreate", "Retain")],
)
def test_what_destroy_leaves(environment: str, policy: str, replaced: str) -> None:
    made = template(environment=environment)
    for kind in ("AWS::DynamoDB::Table", "AWS::Logs::LogGroup"):
        for found in resources(made, kind):
            assert (found["DeletionPolicy"], found["UpdateReplacePolicy"]) == (policy, replaced)
    wanted = {"Fn::If": ["First", False, True]}
    for name in ("balances", "adjustments"):
        protected = table_of(made, name).get("DeletionProtectionEnabled")
        assert protected == (wanted if environment == "production" else None)


def test_a_table_that_is_there_is_used() -> None:
    ledger = {"existing_table": "ledger-old", "existing_table_key": KEY}
    made = template(environment="production", existing_table="customer-balances-old", adjustments=ledger)
    made.resource_count_is("AWS::DynamoDB::Table", 0)
    environment = {pair["Name"]: pair["Value"] for pair in container(made)["Environment"]}
    assert (environment["DDB_TABLE"], environment["ADJUSTMENTS_TABLE"]) == ("customer-balances-old", "ledger-old")
    assert (environment["DDB_KEY"], environment["DDB_BALANCE"]) == ("id", "client_balance")
    assert environment["SEED_ROWS"] == "0", "no random rows in a table that was there"
    theirs = template(existing_table="members", ddb_key="Member", ddb_balance="points", seed_rows=5)
    environment = {pair["Name"]: pair["Value"] for pair in container(theirs)["Environment"]}
    assert [environment[name] for name in ("DDB_KEY", "DDB_BALANCE", "SEED_ROWS")] == ["Member", "points", "5"]
    allowed = json.dumps(statements(made, "TaskRole"))
    assert all(
        f"table/{name}" in allowed for name in ("customer-balances-old", "ledger-old", "ledger-old/index/by_sequence")
    )
    assert KEY in allowed


def test_private_subnets_behind_a_nat_gateway_in_each_zone() -> None:
    made = template(environment="production")
    made.resource_count_is("AWS::EC2::NatGateway", 3)
    made.resource_count_is("AWS::EC2::Subnet", 6)
    zones = {json.dumps(found["Properties"]["AvailabilityZone"]) for found in resources(made, "AWS::EC2::Subnet")}
    assert len(zones) == 3
    configuration = only(made, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert configuration["AssignPublicIp"] == "DISABLED"


def test_public_subnets_without_nat() -> None:
    made = template()
    made.resource_count_is("AWS::EC2::NatGateway", 0)
    made.resource_count_is("AWS::EC2::Subnet", 2)
    configuration = only(made, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert configuration["AssignPublicIp"] == "ENABLED"


def test_a_vpc_that_is_there_is_used() -> None:
    subnets = ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1")
    made = template(vpc_id="vpc-0123456789abcdef0", subnet_ids=subnets)
    for kind in ("AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::NatGateway", "AWS::EC2::VPCEndpoint"):
        made.resource_count_is(kind, 0)
    assert only(made, "AWS::EC2::SecurityGroup")["VpcId"] == "vpc-0123456789abcdef0"
    configuration = only(made, "AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert configuration["Subnets"] == list(subnets)


@pytest.mark.parametrize(
    ("nats_url", "ports"),
    [
        ("tls://connect.ngs.global", [443, 4222]),
        ("nats://one:5222, nats://two:6222", [443, 5222, 6222]),
        ("wss://host", [443]),
        ("ws://host", [80, 443]),
    ],
)
def test_the_security_group_follows_nats_url(nats_url: str, ports: list[int]) -> None:
    assert list(settings(nats_url=nats_url).egress_ports) == ports
    group = only(template(nats_url=nats_url), "AWS::EC2::SecurityGroup")
    assert [rule["FromPort"] for rule in group["SecurityGroupEgress"]] == ports


@pytest.mark.parametrize("network", ["private", "public"])
def test_nothing_comes_in_and_little_goes_out(network: str) -> None:
    made = template(network=network)
    group = only(made, "AWS::EC2::SecurityGroup")
    assert "SecurityGroupIngress" not in group
    made.resource_count_is("AWS::EC2::SecurityGroupIngress", 0)
    assert sorted(rule["FromPort"] for rule in group["SecurityGroupEgress"]) == [443, 4222]
    for kind in ("AWS::ElasticLoadBalancingV2::LoadBalancer", "AWS::ServiceDiscovery::Service"):
        made.resource_count_is(kind, 0)
    assert any(
        endpoint["Properties"]["VpcEndpointType"] == "Gateway" and endpoint["Properties"]["ServiceName"]
        for endpoint in resources(made, "AWS::EC2::VPCEndpoint")
    )


def test_the_service_and_how_it_rolls() -> None:
    service = only(template(spot=False), "AWS::ECS::Service")
    assert service["LaunchType"] == "FARGATE"
    assert service["DesiredCount"] == {"Fn::If": ["First", 3, {"Ref": "AWS::NoValue"}]}, "later, autoscaling's"
    deployment = service["DeploymentConfiguration"]
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert (deployment["MinimumHealthyPercent"], deployment["MaximumPercent"]) == (100, 200)
    assert service["AvailabilityZoneRebalancing"] == "ENABLED"
    assert "LoadBalancers" not in service


def test_spot_runs_one_task_on_demand_and_the_others_when_there_is_room() -> None:
    roles: dict[str, dict[str, Any]] = {"archive": {"enabled": True}, "queue": {"enabled": True, "image": "handler"}}
    made = template(spot=True, **roles)
    (associated,) = made.find_resources("AWS::ECS::ClusterCapacityProviderAssociations")
    for id_, found in made.find_resources("AWS::ECS::Service").items():
        service = found["Properties"]
        assert service["CapacityProviderStrategy"] == [
            {"CapacityProvider": "FARGATE", "Base": 0 if id_.startswith("Archive") else 1, "Weight": 0},
            {"CapacityProvider": "FARGATE_SPOT", "Weight": 1},
        ], id_
        assert "LaunchType" not in service
        assert associated in found["DependsOn"]
    for definition in resources(made, "AWS::ECS::TaskDefinition"):
        stopping = [each["StopTimeout"] for each in definition["Properties"]["ContainerDefinitions"]]
        assert sum(stopping) <= 120, "Spot's notice; the containers stop one after the other"
    with pytest.raises(ValidationError, match=r"queue\.stop_timeout: .* one after the other, in 130 s"):
        settings(spot=True, queue={**roles["queue"], "tasks": 2, "stop_timeout": 100})
    assert not settings(environment="production").spot
    assert settings().spot


def test_roles_are_assumed_only_for_this_account() -> None:
    everything = {"archive": {"enabled": True}, "queue": {"enabled": True, "image": "handler"}, "exec": True}
    for network in ("public", "private"):
        for role in resources(template(network=network, **everything), "AWS::IAM::Role"):
            for statement in role["Properties"]["AssumeRolePolicyDocument"]["Statement"]:
                assert "Service" in statement["Principal"]
                assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


@pytest.mark.parametrize(("architecture", "name"), [("arm64", "ARM64"), ("x86-64", "X86_64")])
def test_the_task_definition(architecture: str, name: str) -> None:
    definition = only(template(architecture=architecture), "AWS::ECS::TaskDefinition")
    assert (definition["Cpu"], definition["Memory"]) == ("256", "512")
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
        "NATS_URL", "DDB_TABLE", "DDB_KEY", "DDB_BALANCE", "ADJUSTMENTS_TABLE", "AWS_REGION", "SEED_ROWS",
        "MAX_IN_FLIGHT", "HEALTH_PORT", "SHUTDOWN_TIMEOUT", "LOG_FORMAT",
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
    """A balance is changed, a row of the ledger never; what is read by the index is read by nothing else."""
    balances, ledger, index = statements(template(), "TaskRole")
    assert balances["Action"] == ["dynamodb:BatchGetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"]
    assert ledger["Action"] == ["dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:PutItem"]
    assert index["Action"] == "dynamodb:Query"
    assert list(balances["Resource"]) == list(ledger["Resource"]) == ["Fn::GetAtt"]
    assert balances["Resource"] != ledger["Resource"]
    assert index["Resource"] == {"Fn::Join": ["", [ledger["Resource"], "/index/by_sequence"]]}


def test_the_execution_role_reads_that_one_secret() -> None:
    reading = [
        statement
        for statement in statements(template(), "ExecutionRole")
        if any(action.startswith("secretsmanager:") for action in statement["Action"])
    ]
    assert [statement["Resource"] for statement in reading] == [{"Ref": "NatsSecretArn"}]


def test_nothing_is_paid_for_that_no_graph_shows_and_rejected_traffic_is_logged() -> None:
    made = template()
    assert only(made, "AWS::ECS::Cluster")["ClusterSettings"] == [{"Name": "containerInsights", "Value": "disabled"}]
    assert only(made, "AWS::EC2::FlowLog")["TrafficType"] == "REJECT"


def test_scaling_is_on_cpu_requests_in_flight_and_time_without_credit() -> None:
    made = template(min_tasks=2, tasks=3, max_tasks=9, target_cpu=55, target_in_flight=70)
    target = only(made, "AWS::ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 9)
    policies = [
        found["Properties"]["TargetTrackingScalingPolicyConfiguration"]
        for found in resources(made, "AWS::ApplicationAutoScaling::ScalingPolicy")
    ]
    assert sorted(policy["TargetValue"] for policy in policies) == [20, 55, 70]
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
    names = (
        "NoTaskServing", "FewTasksServing", "ErrorRate", "Latency", "TimeWithoutCredit", "EventsNotFlowing",
        "EventsDropped", "TableThrottled", "AdjustmentConflicts", "AdjustmentsUnknown",
    )  # fmt: skip
    assert alarms.keys() == {f"CustomerBalance-TT-{name}" for name in names}
    for alarm in alarms.values():
        assert len(alarm["AlarmDescription"]) > 80
    nobody = alarms["CustomerBalance-TT-NoTaskServing"]
    assert (nobody["TreatMissingData"], nobody["ComparisonOperator"]) == ("breaching", "LessThanThreshold")


def test_the_error_rate_does_not_mix_a_series_with_a_number() -> None:
    """CloudWatch: "Unsupported operand type(s) for MAX: '[Array[TimeSeries, Scalar]]'", and the stack rolls back."""
    (rate,) = [
        query["Expression"]
        for found in resources(template(), "AWS::CloudWatch::Alarm")
        for query in found["Properties"].get("Metrics", ())
        if "Expression" in query
    ]
    assert rate == "IF(requests > 0, 100 * (e0 + e1) / requests, 0)"


def test_the_dashboard_shows_what_operators_ask_for() -> None:
    text = json.dumps(only(template(dashboard=True), "AWS::CloudWatch::Dashboard"))
    for metric in (
        "Requests", *(error.description for error in ERRORS if error.description in UNITS),
        "LatencyP50", "LatencyP99", "InFlight", "BatchSize", "EventsPending", "EventsDropped",
        "Serving", "EventsFlowing", "TimeWithoutCredit", "ReadThrottleEvents", "AdjustmentConflicts",
        "AdjustmentsUnknown",
    ):  # fmt: skip
        assert metric in text


def test_everything_is_tagged_and_named_after_its_owner() -> None:
    made = template()
    wanted = {"project": "customer-balance", "environment": "poc", "owner": "TT"}
    for kind in ("AWS::DynamoDB::Table", "AWS::ECS::Cluster", "AWS::ECS::Service", "AWS::EC2::VPC"):
        for found in resources(made, kind):
            assert wanted.items() <= {tag["Key"]: tag["Value"] for tag in found["Properties"]["Tags"]}.items()
    other = template(initials="AB")
    assert {found["Properties"]["TableName"] for found in resources(other, "AWS::DynamoDB::Table")} == {
        "customer-balances-AB", "customer-adjustments-AB",
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"environment": "production"},
        {"spot": True, "exec": True, "alert_email": "a@example.com", "dashboard": True, "network": "private"},
    ],
)
def test_cfn_lint_finds_nothing(changes: dict[str, Any]) -> None:
    assert lint(template(**changes), "eu-west-1", "us-east-1") == []


def test_the_builder_is_given_the_service_and_no_credential(tmp_path: Path) -> None:
    """Whatever lies about in the project's folder, what is staged for the image is what the image is made of."""
    from aws_cdk import App, Stack
    from aws_cdk.aws_ecr_assets import DockerImageAsset

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
    (made_of,) = (tmp_path / "out").glob("asset.*/service")
    code = {path.relative_to(ROOT / "service") for path in (ROOT / "service").rglob("*.py")}
    assert {path.relative_to(made_of) for path in made_of.rglob("*.py")} == code, ".dockerignore names every room"
    (asset,) = (tmp_path / "out").glob("asset.*")
    kinds = {path.relative_to(asset).parts[0] for path in asset.rglob("*") if path.is_file()}
    assert kinds == {"service", "requirements", "Dockerfile", ".dockerignore"}


def test_no_secret_is_in_the_template() -> None:
    made = json.dumps(template(tasks=4).to_json())
    for marker in ("BEGIN USER", "SUA", "eyJ", "nhg_"):
        assert marker not in made


def test_alarms_and_their_end_are_sent_to_an_address() -> None:
    made = template(alert_email="on-call@example.com")
    made.resource_count_is("AWS::SNS::Topic", 1)
    subscription = only(made, "AWS::SNS::Subscription")
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "on-call@example.com")
    policy = only(made, "AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    (let_in,) = [statement for statement in policy if statement["Effect"] == "Allow"]
    assert let_in["Principal"] == {"Service": "cloudwatch.amazonaws.com"}, "a policy of its own replaces the default"
    assert "alarm:CustomerBalance-TT-*" in json.dumps(let_in["Condition"])
    template().resource_count_is("AWS::SNS::Topic", 0)


CUSTOMER = {
    "NoTaskServing", "FewTasksServing", "ErrorRate", "Latency", "TimeWithoutCredit", "EventsNotFlowing",
    "EventsDropped", "TableThrottled", "AdjustmentConflicts", "AdjustmentsUnknown",
}  # fmt: skip
ARCHIVE = {"ArchiveStuck", "ArchiveDeadLetters", "ArchiveLettersRefused"}
LOST = {"ArchiveDiscarded", "ArchiveUnconfirmed"}
QUEUE = {"QueueNoTask", "QueueOld"}
NOTHING_DELETED = {"ArchiveNothingDeleted", "QueueNothingDeleted"}
LETTERS = {"QueueDeadLetters"}


@pytest.mark.parametrize(
    ("source", "queue", "names"),
    [
        ("jetstream", "", CUSTOMER | ARCHIVE | LOST | QUEUE | LETTERS),
        ("sqs", "", CUSTOMER | ARCHIVE | QUEUE | NOTHING_DELETED | LETTERS),
        ("sqs", "orders", CUSTOMER | ARCHIVE | QUEUE | NOTHING_DELETED),
    ],
)
def test_only_an_alarm_that_a_person_must_act_on_is_mailed(source: str, queue: str, names: set[str]) -> None:
    """The alarms that start and end the archive's tasks are in ALARM whenever it is idle, or not."""
    made = template(
        alert_email="on-call@example.com",
        archive={"enabled": True, "source": source, "queue": queue},
        queue={"enabled": True, "image": "handler", "source": source, "queue": queue},
    )
    (topic,) = made.find_resources("AWS::SNS::Topic")
    found = alarms(made.to_json())
    mailed = {name for name, alarm in found.items() if {"Ref": topic} in alarm.get("AlarmActions", ())}
    assert mailed == names
    assert mailed == {name for name, alarm in found.items() if alarm.get("OKActions") == [{"Ref": topic}]}
    assert len(found.keys() - mailed) == 2, "those that start and end tasks"
    for name in mailed:
        assert found[name]["AlarmName"] == f"CustomerBalance-TT-{name}"


def test_exec_opens_a_shell_and_only_when_asked() -> None:
    made = template(exec=True)
    assert only(made, "AWS::ECS::Service")["EnableExecuteCommand"] is True
    assert container(made)["ReadonlyRootFilesystem"] is False
    assert "ssmmessages:OpenDataChannel" in json.dumps(statements(made, "TaskRole"))
    assert "ssmmessages" not in json.dumps(template().to_json())


def test_tracing_sets_the_variable_and_opens_the_port() -> None:
    made = template(tracing_endpoint="http://collector.internal:4318")
    environment = {pair["Name"]: pair["Value"] for pair in container(made)["Environment"]}
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.internal:4318"
    group = only(made, "AWS::EC2::SecurityGroup")
    assert [rule["FromPort"] for rule in group["SecurityGroupEgress"]] == [443, 4222, 4318]


@pytest.mark.parametrize(
    ("changes", "requirements"),
    [({}, "service"), ({"tracing_endpoint": "http://collector.internal:4318"}, "service-otel")],
)
def test_the_image_carries_its_revision_and_tracing_only_when_used(
    tmp_path: Path, changes: dict[str, Any], requirements: str
) -> None:
    from aws_cdk import App

    from cdk.app import image_of, revision
    from cdk.stack.stack import BalanceStack

    app = App(outdir=str(tmp_path / "out"))
    given = settings(**changes)
    BalanceStack(app, given.stack_name, given, image=image_of(given, given.architecture))
    app.synth()
    (manifest,) = (tmp_path / "out").glob("*.assets.json")
    (image,) = json.loads(manifest.read_text())["dockerImages"].values()
    arguments = image["source"]["dockerBuildArgs"]
    assert arguments["REQUIREMENTS"] == requirements
    assert arguments["REVISION"] == revision()
    assert re.fullmatch(r"[0-9a-f]{12,}(-dirty)?|unknown", revision())
    assert image["source"]["platform"] == "linux/arm64"


def test_a_commit_that_does_not_change_the_image_does_not_replace_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdk import app as app_module
    from cdk.app import revision

    def commit(name: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", name]):
            who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
            subprocess.run(["git", *who, *command], cwd=tmp_path, check=True)

    monkeypatch.setattr(app_module, "ROOT", tmp_path)
    commit("service/a.py")
    first = revision()
    commit("README.md")
    commit("service/queue/sqs.proto")
    commit("requirements/dev.txt")
    (tmp_path / "notes").write_text("untracked")
    assert revision() == first
    commit("requirements/service.txt")
    assert revision() != first
    (tmp_path / "service" / "a.py").write_text("changed")
    assert revision().endswith("-dirty")


def test_what_is_built_upon_is_pinned_by_digest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_TAG=\S+@sha256:[0-9a-f]{64}$", dockerfile, flags=re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE)) == {"python:${PYTHON_TAG}"}
    used = [
        action
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for action in re.findall(r"uses: (\S+)", path.read_text())
    ]
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
