"""What `make deploy` and `make destroy` do for the role `devices`: its table, and the secrets in the settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cdk import __main__ as cdk_main
from cdk import checks, deployed
from control_plane import aws
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from deploy.sections import DevicesSection
from tests.cdk.deploy.deployment import TABLE, Deployment, deploy, run
from tests.support.deploy.stack import settings
from tests.support.world import World

READINGS = "customer-readings-DP"


@pytest.fixture
def with_devices(deployment: Deployment) -> Iterator[Deployment]:
    turn_on(deployment)
    yield deployment
    aws.delete_secret("DP", "devices")


def turn_on(deployment: Deployment, **section: Any) -> None:
    given = DevicesSection(enabled=True, **section)
    deployment.settings = deployment.settings.model_copy(update={"devices": given})


def test_a_table_that_an_earlier_deployment_left_is_found_and_destroy_says_what_becomes_of_it(
    with_devices: Deployment,
) -> None:
    dynamodb = deployed.client("dynamodb", with_devices.settings)
    dynamodb.create_table(**{**TABLE, "TableName": READINGS})
    said = " ".join(deploy().output.split())
    assert f'set existing_table = "{READINGS}" under [devices] in deploy/settings.toml' in said
    assert with_devices.asked == []
    assert f"table {READINGS} goes, with every reading in it" in run(cdk_main.cli, ["destroy"], input="no\n").output
    turn_on(with_devices, existing_table=READINGS)
    checks.tables(with_devices.settings)
    assert f"table {READINGS} is kept" in run(cdk_main.cli, ["destroy"], input="no\n").output
    dynamodb.delete_table(TableName=READINGS)


def test_it_has_its_own_secret(with_devices: Deployment, world: World) -> None:
    assert deployed.first(with_devices.settings) == {"FirstDeployment": True}
    said = " ".join(deploy().output.split())
    assert 'devices.creds nor a secret; run `make cp-create ARGS="--with devices"` first' in said
    Files(with_devices.folder).write_creds("devices", world.creds("service"))
    (with_devices.folder / "client.creds").unlink()
    assert deploy().exit_code == 0
    arn = aws.secret_arn("DP", "devices")
    assert f"DevicesNatsSecretArn={arn}" in with_devices.asked[0]
    gone = run(cdk_main.cli, ["destroy", "--yes"]).output
    assert "secret DP/NATSCreds-devices: deleted" in gone


def test_it_may_be_turned_on_in_a_stack_that_stands(deployment: Deployment) -> None:
    (deployment.folder / "client.creds").unlink()
    assert deploy().exit_code == 0
    turn_on(deployment)
    assert deployed.first(deployment.settings) == {"FirstDeployment": False}
    deployment.settings = deployment.settings.model_copy(update={"environment": "production"})
    assert deployed.first(deployment.settings) == {"FirstDeployment": False, "DevicesFirstDeployment": True}
    turn_on(deployment, existing_table=READINGS)
    assert deployed.first(deployment.settings) == {"FirstDeployment": False}, "no table is made"


CERTIFICATES = {"certificate": "x", "key": "y", "client_ca": "z"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("https://chat.example/hook", "has no url; make it a JSON object with url"),
        ('["url"]', "has no url"),
        ('{"url": ""}', "has no url"),
        ('{"url": 5}', "has no url"),
        ('{"url": "https://chat.example/hook"}', ""),
    ],
)
def test_a_secret_that_lacks_what_a_task_takes_is_found_before_a_task_fails(
    deployment: Deployment, value: str, says: str
) -> None:
    client = deployed.client("secretsmanager", deployment.settings)
    arn = client.create_secret(Name="chat", SecretString=value)["ARN"]
    try:
        turn_on(deployment, webhook_secret=arn)
        said = checked(deployment)
        assert said.startswith(f"secret {arn} {says}") if says else said == ""
        assert "chat.example" not in said, "what is in it is not shown"
    finally:
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


def test_each_form_and_tls_ask_for_their_own_keys_and_a_secret_that_is_not_there_is_named(
    deployment: Deployment,
) -> None:
    client = deployed.client("secretsmanager", deployment.settings)
    chat = client.create_secret(Name="chat", SecretString='{"url": "https://chat.example"}')["ARN"]
    tls = client.create_secret(Name="tls", SecretString=json.dumps({**CERTIFICATES, "key": ""}))["ARN"]
    clients = {"clients": ("10.0.0.0/16",), "tls_secret": tls}
    turn_on(deployment, webhook_secret=chat, webhook_form="groupme")
    assert "has no bot_id; make it a JSON object with url, bot_id" in checked(deployment)
    turn_on(deployment, webhook_secret=chat, **clients)
    assert "has no key; make it a JSON object with certificate, key, client_ca" in checked(deployment)
    client.put_secret_value(SecretId=tls, SecretString=json.dumps(CERTIFICATES))
    assert checked(deployment) == ""
    for arn in (chat, tls):
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    assert f"there is no secret {chat}; correct it under [devices]" in checked(deployment)
    assert f"there is no secret {chat}" in " ".join(deploy().output.split())
    assert deployment.asked == []


def checked(deployment: Deployment) -> str:
    try:
        checks.secrets(deployment.settings)
    except ProvisioningError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("changes", "is_noted"),
    [({}, True), ({"nats_url": "tls://nats.example.com:4222"}, False), ({"devices": {"enabled": False}}, False)],
    ids=["Synadia Cloud", "servers of your own", "no devices"],
)
def test_devices_on_servers_without_mqtt_are_noted(
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any], is_noted: bool
) -> None:
    cdk_main._warn(settings(**{"devices": {"enabled": True}, **changes}))
    note = "devices is enabled, and nats_url is Synadia Cloud, which documents no MQTT"
    assert (note in " ".join(capsys.readouterr().out.split())) == is_noted
