"""The role `devices` in the template: off unless asked for, with its table, its secrets and the clients it lets in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from deploy.sections import DevicesSection
from service.devices.figures import UNITS
from tests.cdk.aws_rules import alarms
from tests.cdk.test_cost import bill_of, dollars
from tests.support.deploy.stack import lint, resources, settings, template

pytestmark = pytest.mark.xdist_group("templates")

TLS = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:devices-tls-a1B2c3"
WEBHOOK = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:chat-x9Y8z7"
ON: dict[str, Any] = {"devices": {"enabled": True}}
FULL: dict[str, Any] = {
    "devices": {
        "enabled": True, "facility": "Hall 3", "silence": 90, "pulse": 2.5, "retention_days": 400,
        "webhook_secret": WEBHOOK, "webhook_form": "groupme", "tls_secret": TLS,
        "clients": ["10.1.0.0/16", "sg-0123456789abcdef0"],
    }
}  # fmt: skip


def definition(**changes: Any) -> dict[str, Any]:
    (found,) = [
        each["Properties"]
        for each in resources(template(**changes), "AWS::ECS::TaskDefinition")
        if each["Properties"]["ContainerDefinitions"][0]["Command"] == ["devices"]
    ]
    return dict(found)


def container(**changes: Any) -> dict[str, Any]:
    (found,) = definition(**changes)["ContainerDefinitions"]
    return dict(found)


def environment(**changes: Any) -> dict[str, Any]:
    return {entry["Name"]: entry["Value"] for entry in container(**changes)["Environment"]}


def service(**changes: Any) -> dict[str, Any]:
    (found,) = [
        each["Properties"]
        for id_, each in template(**changes).find_resources("AWS::ECS::Service").items()
        if id_.startswith("Devices")
    ]
    return dict(found)


def statements(*, of_execution: bool = False, **changes: Any) -> list[dict[str, Any]]:
    """What the tasks themselves may do, or ECS to start them."""
    kind = "ExecutionRole" if of_execution else "TaskRole"
    (found,) = [
        policy["Properties"]["PolicyDocument"]["Statement"]
        for id_, policy in template(**changes).find_resources("AWS::IAM::Policy").items()
        if id_.startswith("Devices") and kind in id_
    ]
    return list(found)


def test_it_is_off_unless_asked_for() -> None:
    assert "evices" not in json.dumps(template(dashboard=True).to_json())
    assert settings().tables[-1].row == "adjustment"


@pytest.mark.parametrize("environment", ["poc", "production"])
def test_the_table_has_the_keys_of_a_reading_and_is_kept_in_production(environment: str) -> None:
    made = template(environment=environment, **FULL)
    (found,) = [
        each
        for each in resources(made, "AWS::DynamoDB::Table")
        if each["Properties"]["TableName"] == "customer-readings-TT"
    ]
    table, is_kept = found["Properties"], environment == "production"
    assert table["KeySchema"] == [
        {"AttributeName": "device", "KeyType": "HASH"},
        {"AttributeName": "reading", "KeyType": "RANGE"},
    ]
    assert {key["AttributeType"] for key in table["AttributeDefinitions"]} == {"S"}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert found["DeletionPolicy"] == ("RetainExceptOnCreate" if is_kept else "Delete")
    wanted = {"Fn::If": ["DevicesFirst", False, True]} if is_kept else None
    assert table.get("DeletionProtectionEnabled") == wanted, "not in the deployment that makes it, which may fail"
    parameter = made.to_json()["Parameters"].get("DevicesFirstDeployment")
    assert (parameter is not None) == is_kept
    assert parameter is None or parameter["Default"] == "no"


def test_rows_expire_only_where_days_are_given() -> None:
    assert "TimeToLiveSpecification" not in json.dumps(template(**ON).find_resources("AWS::DynamoDB::Table"))
    assert environment(**ON)["RETENTION_DAYS"] == "0"


@pytest.mark.parametrize("sse", [False, True])
def test_a_table_that_is_there_is_used_with_its_key(*, sse: bool) -> None:
    key = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    table = {"existing_table": "readings-old", **({"existing_table_key": key} if sse else {})}
    changes: dict[str, Any] = {"devices": {**ON["devices"], **table}}
    assert len(resources(template(**changes), "AWS::DynamoDB::Table")) == 2, "of balances and adjustments"
    assert environment(**changes)["DEVICES_TABLE"] == "readings-old"
    rows, *keyed = statements(**changes)
    assert "table/readings-old" in json.dumps(rows["Resource"])
    assert [each["Resource"] for each in keyed] == ([key] if sse else [])


def test_two_tasks_run_whatever_autoscaling_does_and_are_looked_after() -> None:
    found, checked = service(**ON), container(**ON)["HealthCheck"]
    assert found["DesiredCount"] == 2
    assert service(devices={"enabled": True, "tasks": 5})["DesiredCount"] == 5
    assert found["DeploymentConfiguration"]["MinimumHealthyPercent"] == 100
    assert found["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert checked["Command"] == ["CMD", "python", "-m", "service.healthcheck"]
    assert [(each["CapacityProvider"], each.get("Base")) for each in found["CapacityProviderStrategy"]] == [
        ("FARGATE", 1), ("FARGATE_SPOT", None),
    ]  # fmt: skip
    targets = json.dumps(resources(template(**ON), "AWS::ApplicationAutoScaling::ScalableTarget"))
    assert "DevicesTasks" not in targets


def test_the_container_gets_the_settings() -> None:
    (table,) = [
        {"Ref": id_} for id_ in template(**FULL).find_resources("AWS::DynamoDB::Table") if id_.startswith("Devices")
    ]
    given = environment(**FULL)
    assert given["DEVICES_TABLE"] == table
    assert {name: given[name] for name in ("FACILITY", "DEVICE_SILENCE", "PULSE", "RETENTION_DAYS")} == {
        "FACILITY": "Hall 3", "DEVICE_SILENCE": "90", "PULSE": "2.5", "RETENTION_DAYS": "400",
    }  # fmt: skip
    assert (given["OUTAGE_FORM"], given["DEVICES_LISTEN"]) == ("groupme", "0.0.0.0:3000")
    assert environment(**ON).keys().isdisjoint({"OUTAGE_FORM", "DEVICES_LISTEN"}), "gRPC on loopback, and no reports"
    assert container(**FULL)["ReadonlyRootFilesystem"] is True


def test_each_variable_is_one_that_the_role_reads() -> None:
    role = pytest.importorskip("service.devices.settings", reason="the role itself")
    given = {*environment(**FULL), *(entry["Name"] for entry in container(**FULL)["Secrets"])}
    known = {name.upper() for name in role.DevicesSettings.model_fields}
    assert given - {"AWS_REGION"} <= known
    values = {name: value for name, value in environment(**FULL).items() if isinstance(value, str)}
    read = role.DevicesSettings(**{
        name.lower(): value for name, value in {**values, "DEVICES_TABLE": "readings"}.items() if name in known
    })  # fmt: skip
    assert (read.facility, read.device_silence, read.pulse, read.retention_days) == ("Hall 3", 90, 2.5, 400)


def test_secrets_are_taken_by_key_and_no_other_secret_is_readable() -> None:
    secrets = {entry["Name"]: entry["ValueFrom"] for entry in container(**FULL)["Secrets"]}
    assert secrets == {
        "NATS_CREDENTIALS": {"Ref": "DevicesNatsSecretArn"},
        "DEVICES_CERTIFICATE": f"{TLS}:certificate::",
        "DEVICES_KEY": f"{TLS}:key::",
        "DEVICES_CLIENT_CA": f"{TLS}:client_ca::",
        "OUTAGE_WEBHOOK": f"{WEBHOOK}:url::",
        "OUTAGE_BOT_ID": f"{WEBHOOK}:bot_id::",
    }
    readable = [
        json.dumps(statement["Resource"])
        for statement in statements(of_execution=True, **FULL)
        if "secretsmanager:GetSecretValue" in statement["Action"]
    ]
    assert sorted(readable) == sorted(json.dumps(arn) for arn in ({"Ref": "DevicesNatsSecretArn"}, TLS, WEBHOOK))
    assert [entry["Name"] for entry in container(**ON)["Secrets"]] == ["NATS_CREDENTIALS"]


@pytest.mark.parametrize("changes", [ON, FULL])
def test_the_task_may_write_and_read_rows_of_its_table_and_nothing_else(changes: dict[str, Any]) -> None:
    (rows,) = statements(**changes)
    assert rows["Action"] == ["dynamodb:BatchWriteItem", "dynamodb:DescribeTable", "dynamodb:Query", "dynamodb:Scan"]
    assert rows["Resource"]["Fn::GetAtt"][0].startswith("DevicesReadings")
    assert rows["Resource"]["Fn::GetAtt"][1] == "Arn", "no index: it has none"


def test_clients_come_in_on_the_port_of_grpc_and_nobody_else() -> None:
    groups = template(**FULL).find_resources("AWS::EC2::SecurityGroup")
    (clients,) = [id_ for id_ in groups if id_.startswith("DevicesClients")]
    ingress = groups[clients]["Properties"]["SecurityGroupIngress"]
    assert [(rule.get("CidrIp") or rule["SourceSecurityGroupId"]) for rule in ingress] == FULL["devices"]["clients"]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in ingress} == {("tcp", 3000, 3000)}
    given = service(**FULL)["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]
    assert {"Fn::GetAtt": [clients, "GroupId"]} in given
    assert len(given) == 2, "the other one lets the tasks out"
    others = [
        each["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]
        for each in (found["Properties"] for found in resources(template(**FULL), "AWS::ECS::Service"))
        if each != service(**FULL)
    ]
    assert others
    assert all({"Fn::GetAtt": [clients, "GroupId"]} not in each for each in others)
    assert "SecurityGroupIngress" not in json.dumps(template(**ON).to_json())
    assert len(service(**ON)["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]) == 1


def test_clients_find_the_tasks_by_one_name() -> None:
    (zone,) = resources(template(**FULL), "AWS::ServiceDiscovery::PrivateDnsNamespace")
    assert zone["Properties"]["Name"] == "customerbalance-tt.internal"
    (name,) = resources(template(**FULL), "AWS::ServiceDiscovery::Service")
    assert name["Properties"]["Name"] == "devices"
    assert name["Properties"]["DnsConfig"]["DnsRecords"] == [{"TTL": 10, "Type": "A"}]
    assert (
        template(**FULL).to_json()["Outputs"]["DevicesAddress"]["Value"] == "devices.customerbalance-tt.internal:3000"
    )
    assert service(**FULL)["ServiceRegistries"]


def test_outputs_name_what_a_person_asks_for() -> None:
    outputs = template(**ON).to_json()["Outputs"]
    assert {name for name in outputs if name.startswith("Devices")} == {
        "DevicesTableName", "DevicesServiceName", "DevicesLogGroupName",
    }  # fmt: skip


def test_the_dashboard_shows_every_figure_of_the_role() -> None:
    (shown,) = resources(template(dashboard=True, **ON), "AWS::CloudWatch::Dashboard")
    text = json.dumps(shown)
    assert {name for name in UNITS if name not in text} == {"DevicesDeadLettersRefused"}, "which has an alarm"
    assert "customer-readings-TT" in text


@pytest.mark.parametrize(("environment", "nat"), [("poc", 0.0), ("production", 0.25 * 0.045)])
def test_all_of_it_is_on_the_bill(environment: str, nat: float) -> None:
    found, before = bill_of(environment=environment, **FULL), bill_of(environment=environment)
    assert dollars(found, "secrets") == pytest.approx(0.40 * 4), "the service's, its own, TLS and webhook"
    assert dollars(found, "hosted zones") == 0.50
    assert dollars(found, "metrics") - dollars(before, "metrics") == pytest.approx(0.30 * len(UNITS))
    watched = len(alarms(template(**FULL).to_json())) - len(alarms(template().to_json()))
    assert dollars(found, "alarms, by") - dollars(before, "alarms, by") == pytest.approx(0.10 * watched)
    one = (0.25 * 0.03238 + 0.5 * 0.00356) * 730
    on_demand = 2 if environment == "production" else 1
    assert dollars(found, "tasks of devices") == pytest.approx(on_demand * one)
    assert found.tasks == before.tasks + 2
    named = [item.name for item in (*found.items, *found.requests, *found.others)]
    assert len(set(named)) == len(named) - (environment == "poc"), "two roles have a line `on Spot`"
    others = {item.name: item.dollars for item in found.others}
    assert others["readings, a million"] == pytest.approx(0.625 + nat), "a write for each"
    assert others["  readings, kept a month"] == pytest.approx(0.25 * 0.45)
    assert others["  readings over gRPC"] == pytest.approx(0.25e9 / 4096 / 2 / 1e6 * 0.125)


IN_A_VPC = {**FULL, "vpc_id": "vpc-0123456789abcdef0", "subnet_ids": ["subnet-0123456789abcdef0"]}


@pytest.mark.parametrize("changes", [ON, FULL, {**FULL, "environment": "production"}, IN_A_VPC])
def test_cfn_lint_finds_nothing(changes: dict[str, Any]) -> None:
    assert lint(template(**changes), "eu-west-1") == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clients": ["10.0.0.0/8"]}, "tls_secret: it and clients are given together"),
        ({"tls_secret": TLS}, "tls_secret: it and clients are given together"),
        ({"clients": ["0.0.0.0/0"], "tls_secret": TLS}, "larger than /8; name the clients' networks"),
        ({"clients": ["10.0.0.1/8"], "tls_secret": TLS}, "has host bits set"),
        ({"clients": ["sg-x"], "tls_secret": TLS}, "sg-x is neither a security group's id nor an IPv4 network"),
        ({"webhook_secret": "https://chat.example/hook"}, "must be the complete ARN of a secret"),
        ({"webhook_secret": WEBHOOK.removesuffix("-x9Y8z7")}, "webhook_secret"),
        ({"webhook_form": "irc"}, "webhook_form"),
        ({"existing_table_key": "arn:aws:kms:eu-west-1:123456789012:key/1"}, "existing_table_key"),
        ({"pulse": 3600}, "silent_minutes: readings are requested every 3600 s"),
        ({"silence": -1}, "silence"),
        ({"tasks": 0}, "tasks"),
    ],
)
def test_what_would_fail_late_is_refused_at_synth(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DevicesSection.model_validate(wrong)


def test_a_secret_of_another_region_is_reported() -> None:
    with pytest.raises(ValidationError, match=r"devices: arn:.* is in eu-west-1, the stack in us-east-1"):
        settings(region="us-east-1", **FULL)


def test_one_secret_may_hold_the_webhook_and_the_certificates() -> None:
    section = DevicesSection(webhook_secret=TLS, tls_secret=TLS, clients=("10.1.0.0/16",))
    assert section.secrets == {TLS: ("url", "certificate", "key", "client_ca")}
    assert DevicesSection().secrets == {}
