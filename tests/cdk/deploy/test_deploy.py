"""What `make deploy` and `make destroy` do around the CDK's own part."""

from __future__ import annotations

import asyncio
import base64
import socket
import subprocess
import sys

import pytest

from cdk import __main__ as cdk_main
from cdk import checks, deployed
from control_plane import aws
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from deploy.sections import AdjustmentsSection
from local.process import ROOT
from service.contracts.customer import BUCKET, SEED_DONE, SEED_KEY
from service.healthcheck import main as healthcheck
from tests.cdk.deploy.deployment import IMAGE, TABLE, Deployment, deploy, run
from tests.support.world import World


def test_only_a_synthesis_imports_the_cdk() -> None:
    """To import it takes seconds, and starts Node."""
    code = "import sys, cdk.__main__; sys.exit('aws_cdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def asked(arn: str) -> list[list[str]]:
    """Twice for a first deployment: what a stack was told last is what it is given when deployed by itself."""
    command = ["deploy", "--require-approval", "never", "--parameters", f"NatsSecretArn={arn}", "--parameters"]
    return [[*command, f"FirstDeployment={first}"] for first in ("yes", "no")]


async def test_deploy_makes_the_secret_and_waits_for_the_tasks(world: World, deployment: Deployment) -> None:
    async with world.task(), world.task():
        outcome = await asyncio.to_thread(deploy)
    assert outcome.exit_code == 0, outcome.output
    arn = aws.secret_arn("DP")
    assert arn
    assert arn.startswith("arn:aws:secretsmanager:eu-north-1:"), "the region of settings.toml"
    assert deployment.asked == asked(arn)
    assert "2 tasks answer" in outcome.output
    assert "alert_email is empty: alarms notify nobody" in outcome.output
    assert "SEED" not in outcome.output


async def test_a_later_deployment_waits_for_what_autoscaling_has_made_of_it(
    world: World, deployment: Deployment
) -> None:
    await asyncio.to_thread(deploy_without_tasks, deployment)
    Files(deployment.folder).write_creds("client", world.creds("client"))
    (stack,) = deployed.client("cloudformation", deployment.settings).describe_stacks()["Stacks"]
    (cluster,) = [found["OutputValue"] for found in stack["Outputs"] if found["OutputKey"] == "ClusterName"]
    deployed.client("ecs", deployment.settings).update_service(cluster=cluster, service="dp", desiredCount=1)
    async with world.task():
        outcome = await asyncio.to_thread(deploy)
    assert outcome.exit_code == 0, outcome.output
    assert "1 tasks answer" in outcome.output
    assert "FirstDeployment=no" in deployment.asked[2]


@pytest.mark.parametrize("environment", ["poc", "production"])
def test_the_table_is_protected_and_counts_are_kept_once_the_stack_stands(
    deployment: Deployment, environment: str
) -> None:
    deployment.settings = deployment.settings.model_copy(update={"environment": environment})
    deploy_without_tasks(deployment)
    assert [arguments[-1] for arguments in deployment.asked] == ["FirstDeployment=yes", "FirstDeployment=no"]


def test_a_rotated_secret_is_not_overwritten_unless_asked(deployment: Deployment) -> None:
    rotated = aws.push_secret("DP", "rotated elsewhere")

    def stored() -> str:
        found = deployed.client("secretsmanager", deployment.settings).get_secret_value(SecretId=rotated)
        return base64.b64decode(found["SecretString"]).decode()

    assert "left as it is" in deploy_without_tasks(deployment)
    assert stored() == "rotated elsewhere"
    assert deploy("--replace-secret").exit_code == 0
    assert stored() == Files(deployment.folder).creds("service")


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("\n------END NATS USER JWT", "AAAA\n------END NATS USER JWT"),  # as good as another server's
        ("-----BEGIN USER NKEY SEED-----\nSU", "-----BEGIN USER NKEY SEED-----\nSUB"),
    ],
)
def test_credentials_that_do_not_connect_are_not_made_a_secret(
    world: World, deployment: Deployment, part: str, instead: str
) -> None:
    spoilt = world.creds("service").replace(part, instead)
    assert spoilt != world.creds("service")
    Files(deployment.folder).write_creds("service", spoilt)
    outcome = deploy()
    assert outcome.exit_code == 1
    assert "do not connect and are not made a secret" in outcome.output
    assert outcome.output.strip().count("\n") <= 3
    assert aws.secret_arn("DP") is None
    assert deployment.asked == []


def test_a_secret_that_is_being_deleted_does_not_count(deployment: Deployment) -> None:
    aws.push_secret("DP", "old")
    deployed.client("secretsmanager", deployment.settings).delete_secret(
        SecretId="DP/NATSCreds", RecoveryWindowInDays=7
    )
    assert aws.secret_arn("DP") is None
    assert "made; its credentials connect" in deploy_without_tasks(deployment)


def deploy_without_tasks(deployment: Deployment) -> str:
    """Deploy where there are no client's credentials to ask the tasks with."""
    (deployment.folder / "client.creds").unlink()
    outcome = deploy()
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_a_table_that_an_earlier_deployment_left_is_found_before_the_stack_fails(deployment: Deployment) -> None:
    dynamodb = deployed.client("dynamodb", deployment.settings)
    dynamodb.create_table(**TABLE)
    outcome = deploy()
    assert outcome.exit_code == 1
    assert 'set existing_table = "customer-balances-DP"' in " ".join(outcome.output.split())
    assert deployment.asked == []
    deployment.settings = deployment.settings.model_copy(update={"existing_table": "customer-balances-DP"})
    deploy_without_tasks(deployment)
    assert len(deployment.asked) == 2
    dynamodb.delete_table(TableName="customer-balances-DP")
    assert "there is no table customer-balances-DP" in deploy().output


def test_so_is_that_of_the_adjustments(deployment: Deployment) -> None:
    dynamodb = deployed.client("dynamodb", deployment.settings)
    dynamodb.create_table(**{**TABLE, "TableName": "customer-adjustments-DP"})
    said = " ".join(deploy().output.split())
    assert 'set existing_table = "customer-adjustments-DP" under [adjustments] in deploy/settings.toml' in said
    refused = run(cdk_main.cli, ["destroy"], input="no\n")
    assert "table customer-adjustments-DP goes, with every adjustment in it" in refused.output
    ledger = AdjustmentsSection(existing_table="customer-adjustments-DP")
    deployment.settings = deployment.settings.model_copy(update={"adjustments": ledger})
    checks.tables(deployment.settings)
    assert "table customer-adjustments-DP is kept" in run(cdk_main.cli, ["destroy"], input="no\n").output
    dynamodb.delete_table(TableName="customer-adjustments-DP")


def test_so_is_the_archives_and_destroy_says_what_becomes_of_it(deployment: Deployment) -> None:
    dynamodb = deployed.client("dynamodb", deployment.settings)
    dynamodb.create_table(**{**TABLE, "TableName": "customer-events-DP"})
    archive = deployment.settings.archive.model_copy(update={"enabled": True})
    deployment.settings = deployment.settings.model_copy(update={"archive": archive})
    said = " ".join(deploy().output.split())
    assert 'set existing_table = "customer-events-DP" under [archive] in deploy/settings.toml' in said
    assert deployment.asked == []
    refused = run(cdk_main.cli, ["destroy"], input="no\n")
    assert "table customer-events-DP goes, with every archived event in it" in refused.output
    archive = archive.model_copy(update={"existing_table": "customer-events-DP", "source": "sqs"})
    deployment.settings = deployment.settings.model_copy(update={"archive": archive})
    refused = run(cdk_main.cli, ["destroy"], input="no\n")
    assert "table customer-events-DP is kept" in refused.output
    assert "SQS queues that the stack made go" in refused.output
    dynamodb.delete_table(TableName="customer-events-DP")


def test_an_archive_that_is_turned_on_later_finds_the_table_that_is_there(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_without_tasks(deployment)
    deployed.client("dynamodb", deployment.settings).create_table(**{**TABLE, "TableName": "customer-events-DP"})
    archive = deployment.settings.archive.model_copy(update={"enabled": True})
    deployment.settings = deployment.settings.model_copy(update={"archive": archive})
    assert 'set existing_table = "customer-events-DP" under [archive]' in " ".join(deploy().output.split())
    monkeypatch.setattr(deployed, "own_resources", lambda _: {"customer-events-DP"})
    checks.tables(deployment.settings)
    archive = archive.model_copy(update={"existing_table": "customer-events-DP"})
    with pytest.raises(ProvisioningError, match="is this stack's own table, which it would delete"):
        checks.tables(deployment.settings.model_copy(update={"archive": archive}))
    deployed.client("dynamodb", deployment.settings).delete_table(TableName="customer-events-DP")


async def test_deploy_says_how_many_tasks_do_not_answer(world: World) -> None:
    async with world.task():
        with pytest.raises(ProvisioningError, match="1 of 3 tasks answer after 3 seconds"):
            await cdk_main.tasks_answer([world.nats_url], world.creds("client"), lambda: 3, within_s=3)


def test_deploy_needs_credentials_or_the_secret(deployment: Deployment) -> None:
    for path in deployment.folder.glob("*.creds"):
        path.unlink()
    outcome = deploy()
    assert outcome.exit_code == 1
    assert "there is neither" in outcome.output
    assert deployment.asked == []
    arn = aws.push_secret("DP", "from elsewhere")
    assert deploy().exit_code == 0
    assert deployment.asked == asked(arn)


def test_an_archive_that_is_turned_on_later_is_first_by_itself(deployment: Deployment) -> None:
    deploy_without_tasks(deployment)
    archive = deployment.settings.archive.model_copy(update={"enabled": True})
    deployment.settings = deployment.settings.model_copy(update={"archive": archive, "environment": "production"})
    assert deployed.first(deployment.settings) == {"FirstDeployment": False, "ArchiveFirstDeployment": True}
    aws.push_secret("DP", "x", "archive")
    deploy()
    given = [" ".join(arguments[-4:]) for arguments in deployment.asked[2:]]
    assert given == [
        f"--parameters FirstDeployment=no --parameters ArchiveFirstDeployment={first}" for first in ("yes", "no")
    ], "then its table's protection"
    aws.delete_secret("DP", "archive")


async def test_destroy_asks_and_leaves_the_next_deployment_to_seed_again(world: World, deployment: Deployment) -> None:
    aws.push_secret("DP", "x")
    async with world.client("service") as client:
        bucket = await client.jetstream().key_value(BUCKET)
        await bucket.put(SEED_KEY, SEED_DONE)
        refused = await asyncio.to_thread(run, cdk_main.cli, ["destroy"], input="no\n")
        assert refused.exit_code == 1
        assert "nothing was destroyed" in refused.output
        assert refused.output.index("AWS account 123456789012") < refused.output.index("type CustomerBalance-DP")
        assert deployment.asked == []
        outcome = await asyncio.to_thread(run, cdk_main.cli, ["destroy"], input="CustomerBalance-DP\n")
        assert outcome.exit_code == 0, outcome.output
        assert deployment.asked == [["destroy", "--force"]]
        assert aws.secret_arn("DP") is None
        assert "seed flag: cleared" in outcome.output
    assert "stays in ECR" not in outcome.output, "there was no stack"
    again = await asyncio.to_thread(run, cdk_main.cli, ["destroy", "--yes"])
    assert "was not there" in again.output
    assert "was not set" in again.output


def test_destroy_names_the_image_that_stays(deployment: Deployment) -> None:
    deploy_without_tasks(deployment)
    said = " ".join(run(cdk_main.cli, ["destroy", "--yes"]).output.split())
    assert "if no other stack of the account runs it" in said
    repository = "cdk-hnb659fds-container-assets-123456789012-eu-north-1"
    assert f"image {IMAGE} stays in ECR" in said
    assert "aws ecr batch-delete-image" in said
    assert f"--repository-name {repository} --image-ids imageTag=0a1b" in said


async def test_the_health_check_of_the_container(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.task() as task:
        monkeypatch.setenv("HEALTH_PORT", task.health_url.rpartition(":")[2])
        assert await asyncio.to_thread(healthcheck) == 0
    assert await asyncio.to_thread(healthcheck) == 1
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HEALTH_PORT", str(silent.getsockname()[1]))
        assert await asyncio.to_thread(healthcheck) == 1
    assert "does not answer" in capsys.readouterr().err
