"""What can be known before anything is built: Docker, its architecture, the AWS account, the table."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from cdk.settings import Settings
from control_plane.errors import ProvisioningError

_PLATFORMS: Final = {"arm64": ("linux/arm64", {"aarch64", "arm64"}), "x86-64": ("linux/amd64", {"x86_64", "amd64"})}
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_EMULATORS: Final = {"arm64": "qemu-aarch64", "x86-64": "qemu-x86_64"}
_NO_STACK: Final = frozenset({"REVIEW_IN_PROGRESS", "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"})
"""A stack of which nothing runs: the CDK CLI deletes it and makes it anew."""


def docker(settings: Settings) -> None:
    """Raises `ProvisioningError` when the image cannot be built here."""
    program = os.environ.get("CDK_DOCKER", "docker")
    if shutil.which(program) is None:
        raise ProvisioningError("Docker is not installed; the image is built with it")
    asked = _run(program, "info", "--format", "{{.Architecture}}")
    if asked.returncode:
        raise ProvisioningError("Docker does not answer; start it, the image is built with it")
    engine = asked.stdout.strip()
    platform, native = _PLATFORMS[settings.architecture]
    if not engine or engine in native:
        return
    listed = _run(program, "buildx", "inspect")
    if platform in listed.stdout or (_BINFMT / _EMULATORS[settings.architecture]).exists():
        return
    other = next(name for name in _PLATFORMS if name != settings.architecture)
    raise ProvisioningError(
        f"the tasks are {settings.architecture}, this Docker engine is {engine} and does not emulate it; run `docker "
        f"run --privileged --rm tonistiigi/binfmt --install {platform.partition('/')[2]}`, or set architecture = "
        f'"{other}"'
    )


def account(settings: Settings) -> str:
    """The AWS account that the deployment goes to."""
    try:
        identity = client("sts", settings).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise ProvisioningError(f"AWS does not know you ({error}); sign in, for example `aws sso login`") from None
    return str(identity["Account"])


def is_first(settings: Settings) -> bool:
    """Whether the next deployment makes the stack."""
    found = _stack(settings)
    return found is None or found["StackStatus"] in _NO_STACK


def table(settings: Settings) -> None:
    """Raises `ProvisioningError` when a table is there and should not be, or the other way round."""
    own = _own_resources(settings)
    wanted = [(settings.table_name, settings.existing_table, "")]
    if settings.archive.enabled:
        wanted.append((settings.events_table_name, settings.archive.existing_table, " under [archive]"))
    for name, existing, where in wanted:
        there = _is_there(settings, name)
        if existing and not there:
            raise ProvisioningError(
                f"existing_table{where}: there is no table {name} in {settings.region}; correct it or leave it out"
            )
        if existing and name in own:
            raise ProvisioningError(
                f"existing_table{where}: {name} is this stack's own table, which it would delete; leave it out"
            )
        if there and not existing and name not in own:
            raise ProvisioningError(
                f"table {name} is there already, from an earlier deployment; to go on with it, set "
                f'existing_table = "{name}"{where} in cdk/settings.toml; otherwise delete it'
            )


def desired_tasks(settings: Settings) -> int:
    """How many tasks ECS is to run now: what the first deployment asked for, or what autoscaling has made of it."""
    found = _stack(settings)
    if found is None:
        raise ProvisioningError(f"there is no stack {settings.stack_name}; run `make deploy`")
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
    ecs = client("ecs", settings)
    (service,) = ecs.describe_services(cluster=outputs["ClusterName"], services=[outputs["ServiceName"]])["services"]
    return int(service["desiredCount"])


def client(service: Any, settings: Settings) -> Any:
    return boto3.Session(region_name=settings.region).client(service)


def _stack(settings: Settings) -> dict[str, Any] | None:
    try:
        (found,) = client("cloudformation", settings).describe_stacks(StackName=settings.stack_name)["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":  # CloudFormation's word for "does not exist"
            return None
        raise ProvisioningError(f"stack {settings.stack_name}: AWS says {error}; see that you may read it") from None
    return dict(found)


def _own_resources(settings: Settings) -> set[str]:
    """The physical ids of what the stack has; empty without a stack."""
    if is_first(settings):
        return set()
    pages = client("cloudformation", settings).get_paginator("list_stack_resources")
    try:
        listed = list(pages.paginate(StackName=settings.stack_name))
    except ClientError as error:
        raise ProvisioningError(f"stack {settings.stack_name}: AWS says {error}; see that you may read it") from None
    return {found.get("PhysicalResourceId", "") for page in listed for found in page["StackResourceSummaries"]}


def _is_there(settings: Settings, table_name: str) -> bool:
    try:
        client("dynamodb", settings).describe_table(TableName=table_name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return False
        raise ProvisioningError(f"table {table_name}: AWS says {error}; see that you may read it") from None
    return True


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
