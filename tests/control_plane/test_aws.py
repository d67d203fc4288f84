"""The secret, against moto's server; and whose initials."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from control_plane import aws
from control_plane.errors import ProvisioningError


@pytest.fixture
def secrets(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    client = boto3.client("secretsmanager")
    yield client
    for secret in client.list_secrets(IncludePlannedDeletion=True)["SecretList"]:
        client.delete_secret(SecretId=secret["ARN"], ForceDeleteWithoutRecovery=True)
    client.close()


def test_a_secret_is_made_replaced_and_deleted(secrets: Any) -> None:
    arn = aws.push_secret("DO", "one")
    assert arn.startswith("arn:aws:secretsmanager:eu-west-1:")
    value = secrets.get_secret_value(SecretId="DO/NATSCreds")
    assert (value["ARN"], base64.b64decode(value["SecretString"])) == (arn, b"one")
    assert aws.push_secret("DO", "two") == arn
    assert base64.b64decode(secrets.get_secret_value(SecretId=arn)["SecretString"]) == b"two"
    assert aws.delete_secret("DO") is True
    assert aws.delete_secret("DO") is False


def test_a_secret_that_is_being_deleted_is_restored(secrets: Any) -> None:
    arn = aws.push_secret("DO", "one")
    secrets.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    assert aws.push_secret("DO", "two") == arn
    assert base64.b64decode(secrets.get_secret_value(SecretId=arn)["SecretString"]) == b"two"


def test_two_people_have_two_secrets(secrets: Any) -> None:
    assert aws.push_secret("DO", "one") != aws.push_secret("AB", "other")
    assert aws.delete_secret("DO") is True
    assert base64.b64decode(secrets.get_secret_value(SecretId="AB/NATSCreds")["SecretString"]) == b"other"


def test_no_credentials_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with pytest.raises(ProvisioningError, match="secret DO/NATSCreds: AWS says Unable to locate credentials"):
        aws.push_secret("DO", "the secret")
    assert aws.caller_initials() is None
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProvisioningError, match="region"):
        aws.push_secret("DO", "the secret")


def test_the_callers_name_is_asked_of_sts(secrets: Any) -> None:
    assert secrets
    assert aws.caller_initials()


@pytest.mark.parametrize(
    ("arn", "initials"),
    [
        ("arn:aws:sts::1:assumed-role/AWSReservedSSO_Admin_1/david.oram@example.com", "DO"),
        ("arn:aws:iam::1:user/DavidOram", "DO"),
        ("arn:aws:iam::1:user/path/david-oram", "DO"),
        ("arn:aws:iam::1:user/david_j_oram2", "DJO"),
        ("arn:aws:iam::1:user/david", "D"),
        ("arn:aws:iam::1:user/1234", None),
    ],
)
def test_initials(arn: str, initials: str | None) -> None:
    assert aws.initials_of(arn) == initials


@pytest.mark.parametrize("bad", ["", "1A", "D O", "ABCDEFGHI", "DÖ", "../X"])
def test_bad_initials_are_refused(bad: str) -> None:
    with pytest.raises(ProvisioningError, match="will not do"):
        aws.check_initials(bad)
    assert aws.check_initials("do") == "DO"
