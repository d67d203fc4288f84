"""The CDK CLI deploys the stack for real, to moto's server; what arrived is read back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from control_plane import aws
from local.process import ROOT
from tests.cdk.deploy.moto_app import HANDLER, IMAGE, REGION

CLI = ROOT / "cdk" / "node_modules" / ".bin" / "cdk"
STACK = "CustomerBalance-MT"
pytestmark = pytest.mark.xdist_group("moto")


@dataclass
class Deployed:
    env: dict[str, str]
    folder: Path
    secret_arn: str

    def client(self, service: Any) -> Any:
        return boto3.client(
            service, endpoint_url=self.env["AWS_ENDPOINT_URL"], region_name=REGION,
            aws_access_key_id="x", aws_secret_access_key="x",
        )  # fmt: skip

    async def cdk(self, *arguments: str) -> tuple[int, str]:
        app = f"{sys.executable} -m tests.cdk.deploy.moto_app"
        process = await asyncio.create_subprocess_exec(
            str(CLI), "--app", app, "--no-path-metadata", "--no-version-reporting",  # 50 KB fit
            "--output", str(self.folder / "cdk.out"), *arguments, cwd=ROOT, env=self.env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()


@pytest.fixture(scope="module")
async def deployed(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    # localhost, not 127.0.0.1: the CLI would take the address for a bucket's name
    env = {
        **os.environ,
        "AWS_ENDPOINT_URL": moto.replace("127.0.0.1", "localhost"),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
        "CI": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"):
            patch.setenv(name, env[name])
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        arn = aws.push_secret("MT", "the creds")
    deployed = Deployed(env, tmp_path_factory.mktemp("cdk"), arn)
    code, output = await deployed.cdk(
        "deploy", "--method", "direct", "--require-approval", "never", "--parameters", f"NatsSecretArn={arn}",
        "--parameters", "FirstDeployment=yes",
    )  # fmt: skip
    assert code == 0, output
    return deployed


def containers(deployed: Deployed, role: str) -> list[dict[str, Any]]:
    """Of the task of a role, its own first."""
    ecs = deployed.client("ecs")
    (found,) = [
        definition["containerDefinitions"]
        for arn in ecs.list_task_definitions()["taskDefinitionArns"]
        for definition in [ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]]
        if definition["containerDefinitions"][0]["command"] == [role]
    ]
    return list(found)


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {pair["name"]: pair["value"] for pair in container["environment"]}


async def test_the_task_definition_arrived(deployed: Deployed) -> None:
    (container,) = containers(deployed, "customer")
    assert container["image"] == IMAGE
    assert container["secrets"] == [{"name": "NATS_CREDENTIALS", "valueFrom": deployed.secret_arn}]
    assert environment(container)["DDB_TABLE"] == "customer-balances-MT"
    assert environment(container)["AWS_REGION"] == REGION
    assert container["healthCheck"]["command"] == ["CMD", "python", "-m", "service.healthcheck"]
    assert container["readonlyRootFilesystem"] is True
    assert container["user"] == "10001:10001"


async def test_the_secret_resolves_to_the_credentials(deployed: Deployed) -> None:
    (container,) = containers(deployed, "customer")
    arn = container["secrets"][0]["valueFrom"]
    value = deployed.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    assert value == "dGhlIGNyZWRz", "base64, as NATS_CREDENTIALS is"


async def test_the_service_and_the_table_arrived(deployed: Deployed) -> None:
    ecs = deployed.client("ecs")
    clusters = ecs.list_clusters()["clusterArns"]
    services = [arn for cluster in clusters for arn in ecs.list_services(cluster=cluster)["serviceArns"]]
    found = ecs.describe_services(cluster=clusters[0], services=services)["services"]
    assert sorted(service["desiredCount"] for service in found) == [2, 3], "of the queue, and of the customer"
    table = deployed.client("dynamodb").describe_table(TableName="customer-balances-MT")["Table"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["KeySchema"] == [{"AttributeName": "id", "KeyType": "HASH"}]
    adjustments = deployed.client("dynamodb").describe_table(TableName="customer-adjustments-MT")["Table"]
    assert [index["IndexName"] for index in adjustments["LocalSecondaryIndexes"]] == ["by_sequence"]


async def test_the_queue_its_dead_letter_queue_and_the_sidecar_beside_the_handler_arrived(deployed: Deployed) -> None:
    sidecar, handler = containers(deployed, "queue")
    sqs = deployed.client("sqs")
    url = sqs.get_queue_url(QueueName="customer-queue-MT")["QueueUrl"]
    assert environment(sidecar)["QUEUE"] == f"sqs:https://sqs.{REGION}.amazonaws.com/123456789012/customer-queue-MT"
    policy = json.loads(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(":customer-queue-dead-MT")
    assert int(policy["maxReceiveCount"]) == 4
    assert (sidecar["image"], handler["image"], sidecar.get("secrets", [])) == (IMAGE, HANDLER, [])
    assert environment(handler) == {"SIDECAR": environment(sidecar)["QUEUE_LISTEN"]}
    assert handler["dependsOn"] == [{"containerName": sidecar["name"], "condition": "HEALTHY"}]


async def test_alarms_and_dashboard_arrived(deployed: Deployed) -> None:
    """Of CloudFormation's resources moto makes no alarms: those are read from the template that it was given."""
    (dashboard,) = deployed.client("cloudwatch").list_dashboards()["DashboardEntries"]
    assert dashboard["DashboardName"] == STACK
    template = deployed.client("cloudformation").get_template(StackName=STACK)["TemplateBody"]
    assert str(template).count("AWS::CloudWatch::Alarm") == 14


async def test_a_second_look_finds_no_difference(deployed: Deployed) -> None:
    code, output = await deployed.cdk("diff", "--method=template", "--fail")
    assert code == 0, output
    assert "There were no differences" in output


async def test_bootstrap_works_too(deployed: Deployed) -> None:
    code, output = await deployed.cdk("bootstrap", f"aws://123456789012/{REGION}")
    assert code == 0, output
    assert "bootstrapped" in output
