"""What is checked before anything is made: Docker, AWS, zones, queues and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdk import __main__ as cdk_main
from cdk import checks, deployed
from cdk import deployment as settings_module
from control_plane.errors import ProvisioningError
from deploy.sections import ArchiveSection, QueueSection
from deploy.settings import Settings
from tests.cdk.deploy.deployment import TABLE, Deployment, deploy, run


def test_arm64_on_another_machine_is_found_before_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Docker engine that says what one on x86-64 says, first without and then with emulation."""
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\n[ $1 = info ] && echo x86_64 || echo $PLATFORMS\n")
    engine.chmod(0o700)
    monkeypatch.setenv("CDK_DOCKER", str(engine))
    monkeypatch.setattr(checks, "_BINFMT", tmp_path)
    graviton = Settings(region="eu-west-1", initials="DP")
    with pytest.raises(ProvisioningError, match=r"binfmt --install arm64`, or set architecture = \"x86-64\""):
        checks.docker(graviton)
    checks.docker(graviton.model_copy(update={"architecture": "x86-64"}))
    monkeypatch.setenv("PLATFORMS", "Platforms: linux/amd64, linux/arm64")
    checks.docker(graviton)
    monkeypatch.delenv("PLATFORMS")
    (tmp_path / "qemu-aarch64").touch()
    checks.docker(graviton)


def test_another_builder_is_asked_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Podman says what it runs on in another field, and fails where it is asked for Docker's."""
    engine = tmp_path / "podman"
    engine.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "  info) ;;\n"
        "  'info --format {{.Host.Arch}}') echo amd64 ;;\n"
        '  *) echo "can\'t evaluate field" >&2; exit 125 ;;\n'
        "esac\n"
    )
    engine.chmod(0o700)
    monkeypatch.setenv("CDK_DOCKER", str(engine))
    monkeypatch.setattr(checks, "_BINFMT", tmp_path)
    given = Settings(region="eu-west-1", initials="DP", architecture="x86-64")
    checks.docker(given)
    with pytest.raises(ProvisioningError, match=r"this engine of \S+podman is amd64 and does not emulate it"):
        checks.docker(given.model_copy(update={"queue": QueueSection(enabled=True, image="x", architecture="arm64")}))
    engine.write_text("#!/bin/sh\necho 'cannot connect to the machine' >&2; exit 125\n")
    with pytest.raises(ProvisioningError, match=r"podman does not answer \(cannot connect to the machine\)"):
        checks.docker(given)


@pytest.mark.parametrize(("region", "zones"), [("us-west-1", 2), ("eu-north-1", 3)])
def test_an_account_that_sees_fewer_zones_is_found_before_anything_is_made(
    deployment: Deployment, region: str, zones: int
) -> None:
    """Moto has the zones that AWS shows a new account."""
    given = deployment.settings.model_copy(update={"region": region, "zones": 3})
    if zones == 3:
        checks.zones(given)
        return
    with pytest.raises(ProvisioningError, match=r"zones: this account has 2 in us-west-1 \(.*\), not 3; set zones = 2"):
        checks.zones(given)
    checks.zones(given.model_copy(update={"zones": 2}))
    checks.zones(given.model_copy(update={"vpc_id": "vpc-0123456789abcdef0"}))


def test_a_queue_to_read_must_be_there_and_in_this_account(deployment: Deployment) -> None:
    def with_queue(name: str) -> Settings:
        archive = ArchiveSection(enabled=True, source="sqs", queue=name)
        return deployment.settings.model_copy(update={"archive": archive})

    deployment.settings = with_queue("nubmers")
    assert "archive.queue: there is no queue nubmers in eu-north-1; correct it" in " ".join(deploy().output.split())
    assert deployment.asked == []
    sqs = deployed.client("sqs", deployment.settings)
    url = sqs.create_queue(QueueName="numbers")["QueueUrl"]
    checks.queues(with_queue("numbers"))
    checks.queues(with_queue("arn:aws:sqs:eu-north-1:123456789012:numbers"))
    with pytest.raises(ProvisioningError, match=r"archive\.queue: it is in account 999999999999"):
        checks.queues(with_queue("arn:aws:sqs:eu-north-1:999999999999:numbers"))
    sqs.delete_queue(QueueUrl=url)


def test_queues_that_an_earlier_deployment_left_are_found_before_the_stack_fails(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqs = deployed.client("sqs", deployment.settings)
    for section, name in (("archive", "customer-archive-DP"), ("queue", "customer-queue-dead-DP")):
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        on = {
            "archive": ArchiveSection(enabled=section == "archive", source="sqs"),
            "queue": QueueSection(enabled=section == "queue", source="sqs", image="x"),
        }
        given = deployment.settings.model_copy(update=on)
        with pytest.raises(ProvisioningError, match=rf"queue {name} is there already.*under \[{section}\]"):
            checks.queues(given)
        with monkeypatch.context() as patch:
            patch.setattr(deployed, "own_resources", lambda _, url=url: {url})
            checks.queues(given)
        sqs.delete_queue(QueueUrl=url)
        checks.queues(given)


def test_a_table_with_a_key_of_the_customers_asks_for_it(deployment: Deployment) -> None:
    kms, dynamodb = (deployed.client(name, deployment.settings) for name in ("kms", "dynamodb"))
    key = kms.create_key()["KeyMetadata"]["Arn"]
    encrypted = {"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": key}
    dynamodb.create_table(**{**TABLE, "TableName": "keyed", "SSESpecification": encrypted})
    given = deployment.settings.model_copy(update={"existing_table": "keyed"})
    with pytest.raises(ProvisioningError, match=f'existing_table_key: .*set existing_table_key = "{key}"'):
        checks.tables(given)
    checks.tables(given.model_copy(update={"existing_table_key": key}))
    dynamodb.delete_table(TableName="keyed")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("Member", "S", "Member (S)"), ("id", "N", "id (N)"), ("id", "S", "")],
)
def test_a_table_with_another_key_asks_for_its_name(deployment: Deployment, name: str, kind: str, said: str) -> None:
    dynamodb = deployed.client("dynamodb", deployment.settings)
    keys = {"AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind}],
            "KeySchema": [{"AttributeName": name, "KeyType": "HASH"}]}  # fmt: skip
    dynamodb.create_table(**{**TABLE, "TableName": "theirs", **keys})
    given = deployment.settings.model_copy(update={"existing_table": "theirs"})
    try:
        if said:
            with pytest.raises(ProvisioningError) as caught:
                checks.tables(given)
            assert str(caught.value).startswith(f"existing_table: table theirs has the key {said}; give a table whose")
        else:
            checks.tables(given)
        if kind == "S":
            checks.tables(given.model_copy(update={"ddb_key": name}))
    finally:
        dynamodb.delete_table(TableName="theirs")


def test_without_docker_or_aws_it_stops_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(region="eu-west-1", initials="DP")
    monkeypatch.setattr(settings_module, "load", lambda: given)
    monkeypatch.setenv("CDK_DOCKER", "no-such-docker")
    assert "no-such-docker is not installed" in run(cdk_main.cli, ["deploy"]).output
    monkeypatch.setenv("CDK_DOCKER", "false")
    assert "false does not answer (nothing)" in run(cdk_main.cli, ["deploy"]).output
    monkeypatch.setenv("CDK_DOCKER", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    outcome = run(cdk_main.cli, ["deploy"])
    assert outcome.exit_code == 1
    assert "AWS does not know you" in outcome.output
