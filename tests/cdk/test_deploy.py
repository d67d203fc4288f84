"""What `make deploy` and `make destroy` do around the CDK's own part."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdk import __main__ as cdk_main
from cdk import settings as settings_module
from cdk.settings import Settings
from control_plane import aws
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from service.customer.contract import BUCKET, SEED_DONE, SEED_KEY
from service.healthcheck import main as healthcheck
from tests.support.world import World

run = CliRunner().invoke


@pytest.fixture
def deployment(world: World, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A person's settings and credentials, with moto for AWS; yields what the CDK CLI is asked to do."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto,
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    given = Settings(region="eu-west-1", initials="DP", nats_url=world.nats_url, tasks=2, min_tasks=1)
    monkeypatch.setattr(settings_module, "load", lambda: given)
    monkeypatch.setattr(cdk_main, "CONFIG", tmp_path)
    files = Files(tmp_path)
    for user in ("service", "client"):
        files.write_creds(user, world.creds(user))
    asked: list[list[str]] = []
    monkeypatch.setattr(cdk_main, "_cdk", lambda arguments, _: asked.append(list(arguments)))
    monkeypatch.setattr(cdk_main, "_check_docker", lambda: None)
    return asked


async def test_deploy_pushes_the_secret_first_and_waits_for_the_tasks(
    world: World, deployment: list[list[str]]
) -> None:
    async with world.task(), world.task():
        outcome = await asyncio.to_thread(run, cdk_main.cli, ["deploy"])
    assert outcome.exit_code == 0, outcome.output
    arn = aws.secret_arn("DP")
    assert arn
    assert deployment == [["deploy", "--require-approval", "never", "--parameters", f"NatsSecretArn={arn}"]]
    assert "2 tasks answer" in outcome.output
    assert "SEED" not in outcome.output


async def test_deploy_says_how_many_tasks_do_not_answer(world: World) -> None:
    async with world.task():
        with pytest.raises(ProvisioningError, match="1 of 3 tasks answer after 3 seconds"):
            await cdk_main.tasks_answer(world.nats_url, world.creds("client"), 3, within_s=3)


def test_deploy_needs_credentials_or_the_secret(deployment: list[list[str]], tmp_path: Path) -> None:
    aws.delete_secret("DP")
    for path in tmp_path.glob("*.creds"):
        path.unlink()
    outcome = run(cdk_main.cli, ["deploy"])
    assert outcome.exit_code == 1
    assert "there is neither" in outcome.output
    assert deployment == []
    arn = aws.push_secret("DP", "from elsewhere")
    assert run(cdk_main.cli, ["deploy"]).exit_code == 0
    assert deployment[0][-1] == f"NatsSecretArn={arn}"


async def test_destroy_asks_and_leaves_the_next_deployment_to_seed_again(
    world: World, deployment: list[list[str]]
) -> None:
    aws.push_secret("DP", "x")
    async with world.client("service") as client:
        bucket = await client.jetstream().key_value(BUCKET)
        await bucket.put(SEED_KEY, SEED_DONE)
        refused = await asyncio.to_thread(run, cdk_main.cli, ["destroy"], input="no\n")
        assert refused.exit_code == 1
        assert "nothing was destroyed" in refused.output
        assert deployment == []
        outcome = await asyncio.to_thread(run, cdk_main.cli, ["destroy"], input="CustomerBalance-DP\n")
        assert outcome.exit_code == 0, outcome.output
        assert deployment == [["destroy", "--force"]]
        assert aws.secret_arn("DP") is None
        assert "seed flag: cleared" in outcome.output
    again = await asyncio.to_thread(run, cdk_main.cli, ["destroy", "--yes"])
    assert "was not there" in again.output
    assert "was not set" in again.output


def test_without_docker_or_aws_it_stops_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(region="eu-west-1", initials="DP")
    monkeypatch.setattr(settings_module, "load", lambda: given)
    monkeypatch.setenv("CDK_DOCKER", "no-such-docker")
    assert "Docker is not installed" in run(cdk_main.cli, ["deploy"]).output
    monkeypatch.setenv("CDK_DOCKER", "false")
    assert "Docker does not answer" in run(cdk_main.cli, ["deploy"]).output
    monkeypatch.setenv("CDK_DOCKER", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    outcome = run(cdk_main.cli, ["deploy"])
    assert outcome.exit_code == 1
    assert "AWS does not know you" in outcome.output


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
