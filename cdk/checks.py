"""Checks before anything is built: the image builder, the AWS account, its zones, tables, queues and secrets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from cdk import deployed
from cdk.deployed import Unreadable, client
from control_plane.errors import ProvisioningError
from deploy.sections import Reader
from deploy.settings import Settings

_PLATFORMS: Final = {"arm64": ("linux/arm64", {"aarch64", "arm64"}), "x86-64": ("linux/amd64", {"x86_64", "amd64"})}
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_EMULATORS: Final = {"arm64": "qemu-aarch64", "x86-64": "qemu-x86_64"}
_NO_QUEUE: Final = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})


class NoAccount(ProvisioningError):
    """AWS cannot identify the caller."""


def docker(settings: Settings) -> None:
    """Raise `ProvisioningError` if the images cannot be built here, with the program that `CDK_DOCKER` names."""
    program = os.environ.get("CDK_DOCKER", "docker")
    if shutil.which(program) is None:
        raise ProvisioningError(f"{program} is not installed; the image is built with it")
    if (asked := _run(program, "info")).returncode:
        said = (asked.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ProvisioningError(f"{program} does not answer ({said}); start it, the image is built with it")
    # Docker's field, then Podman's. A program that has neither is assumed to build for both architectures.
    asked_for = [_run(program, "info", "--format", form) for form in ("{{.Architecture}}", "{{.Host.Arch}}")]
    engine = next((asked.stdout.strip() for asked in asked_for if not asked.returncode), "")
    for architecture in sorted({settings.architecture, settings.queue_architecture}):
        _builds_for(architecture, program, engine)


def _builds_for(architecture: str, program: str, engine: str) -> None:
    platform, native = _PLATFORMS[architecture]
    if not engine or engine in native:
        return
    listed = _run(program, "buildx", "inspect")
    if platform in listed.stdout or (_BINFMT / _EMULATORS[architecture]).exists():
        return
    other = next(name for name in _PLATFORMS if name != architecture)
    raise ProvisioningError(
        f"the tasks are {architecture}, this engine of {program} is {engine} and does not emulate it; run `{program} "
        f"run --privileged --rm tonistiigi/binfmt --install {platform.partition('/')[2]}`, or set architecture = "
        f'"{other}"'
    )


def account(settings: Settings) -> str:
    """Return the AWS account that the deployment goes to. Raises `NoAccount`."""
    try:
        identity = client("sts", settings).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise NoAccount(f"AWS does not know you ({error}); sign in, for example `aws sso login`") from None
    return str(identity["Account"])


def tables(settings: Settings) -> None:
    """Raise `ProvisioningError` if a table exists that should not, or is missing."""
    own = deployed.own_resources(settings)
    for table in settings.tables:
        name, where = table.name, f" under [{table.section}]" if table.section else ""
        found = _table(settings, name)
        if table.exists and found is None:
            raise ProvisioningError(
                f"existing_table{where}: there is no table {name} in {settings.region}; correct it or leave it out"
            )
        if table.exists and name in own:
            raise ProvisioningError(
                f"existing_table{where}: {name} is this stack's own table, which it would delete; leave it out"
            )
        if found is not None and not table.exists and name not in own:
            raise ProvisioningError(
                f"table {name} is there already, from an earlier deployment; to go on with it, set "
                f'existing_table = "{name}"{where} in deploy/settings.toml; otherwise delete it'
            )
        if table.exists and found and not where and (keys := _keys(found)) != f"{settings.ddb_key} (S)":
            raise ProvisioningError(
                f"existing_table: table {name} has the key {keys}; give a table whose one key is a string, and its "
                "name in ddb_key"
            )
        used = found.get("SSEDescription", {}).get("KMSMasterKeyArn", "") if found and table.exists else ""
        if used != table.key and (table.key or _is_customers(settings, used)):
            raise ProvisioningError(
                f"existing_table_key{where}: table {name} is encrypted with "
                + (f'another key; set existing_table_key = "{used}"' if used else "AWS' own key; leave it out")
            )


def secrets(settings: Settings) -> None:
    """Raise `ProvisioningError` if a secret that the settings name lacks a key that the tasks use.

    ECS reads each key of the secret's JSON object by name, and starts no task without it.
    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html
    """
    for arn, keys in settings.devices.secrets.items() if settings.devices.enabled else ():
        try:
            value = client("secretsmanager", settings).get_secret_value(SecretId=arn).get("SecretString", "")
            found = json.loads(value)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise Unreadable(f"secret {arn}: AWS says {error}; see that you may read it") from None
            raise ProvisioningError(f"there is no secret {arn}; correct it under [devices] or leave it out") from None
        except ValueError:
            found = None
        given = found if isinstance(found, dict) else {}
        lacking = [key for key in keys if not (isinstance(given.get(key), str) and given[key])]
        if lacking:
            raise ProvisioningError(
                f"secret {arn} has no {' and no '.join(lacking)}; make it a JSON object with {', '.join(keys)}"
            )


def queues(settings: Settings) -> None:
    """Raise `ProvisioningError` if an SQS queue exists that should not, or is missing."""
    own = deployed.own_resources(settings)
    made = {"archive": [f"customer-archive-{settings.initials}"]}
    made["queue"] = [f"customer-queue-{settings.initials}", f"customer-queue-dead-{settings.initials}"]
    for section, names in made.items():
        reader: Reader = getattr(settings, section)
        if not reader.enabled or reader.source != "sqs":
            continue
        if reader.queue:
            _existing_queue(settings, section, reader, own)
            continue
        for name in names:
            if (url := _queue_url(settings, name)) and not _is_own(url, own):
                raise ProvisioningError(
                    f"queue {name} is there already, from an earlier deployment; to go on with it, set queue = "
                    f'"{names[0]}" under [{section}] in deploy/settings.toml; otherwise delete it, and wait a minute'
                )


def _existing_queue(settings: Settings, section: str, reader: Reader, own: Collection[str]) -> None:
    name = reader.queue.rpartition(":")[2]
    if reader.queue_account not in {"", account(settings)}:
        raise ProvisioningError(
            f"{section}.queue: it is in account {reader.queue_account}, whose metrics the alarms of this one do not "
            "see; deploy to that account"
        )
    url = _queue_url(settings, name)
    if not url:
        raise ProvisioningError(
            f"{section}.queue: there is no queue {name} in {settings.region}; correct it or leave it out"
        )
    if _is_own(url, own):
        raise ProvisioningError(
            f"{section}.queue: {name} is this stack's own queue, which it would delete; leave it out"
        )


def _is_own(url: str, own: Collection[str]) -> bool:
    """Return whether a queue is the stack's. The URL's host may differ (FIPS, dual stack); account and name may not."""
    return url.split("/")[-2:] in [other.split("/")[-2:] for other in own]


def zones(settings: Settings) -> None:
    """Raise `ProvisioningError` if the account sees fewer zones than the new VPC needs.

    `Fn::GetAZs` returns the zones with a default subnet, or all zones if none has one.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference-getavailabilityzones.html
    """
    if settings.vpc_id:
        return
    ec2 = client("ec2", settings)
    try:
        subnets = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
        offered = ec2.describe_availability_zones(Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}])
    except (BotoCoreError, ClientError) as error:
        raise Unreadable(f"the zones of {settings.region}: AWS says {error}; see that you may read them") from None
    by_default = {subnet["AvailabilityZone"] for subnet in subnets}
    found = sorted(by_default or {zone["ZoneName"] for zone in offered["AvailabilityZones"]})
    if len(found) < settings.zones:
        raise ProvisioningError(
            f"zones: this account has {len(found)} in {settings.region} ({', '.join(found)}), not {settings.zones}; "
            f"set zones = {len(found)}, or deploy to another region"
        )


def _queue_url(settings: Settings, name: str) -> str:
    """Return the URL of a queue, or '' if it does not exist."""
    try:
        return str(client("sqs", settings).get_queue_url(QueueName=name)["QueueUrl"])
    except ClientError as error:
        if error.response["Error"]["Code"] in _NO_QUEUE:
            return ""
        raise Unreadable(f"queue {name}: AWS says {error}; see that you may read it") from None


def _table(settings: Settings, name: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = client("dynamodb", settings).describe_table(TableName=name)["Table"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise Unreadable(f"table {name}: AWS says {error}; see that you may read it") from None
    return found


def _keys(table: Mapping[str, Any]) -> str:
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    return ", ".join(f"{each['AttributeName']} ({types[each['AttributeName']]})" for each in table["KeySchema"])


def _is_customers(settings: Settings, key_arn: str) -> bool:
    """Return whether a key is customer managed. A key of AWS needs no permission, and anyone may describe it."""
    try:
        described = client("kms", settings).describe_key(KeyId=key_arn)
    except ClientError:
        return True
    return bool(described["KeyMetadata"]["KeyManager"] == "CUSTOMER")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
