"""What AWS has of this deployment now: the stack, its resources and its images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from cdk.parameters import FIRST_PARAMETER, firsts
from control_plane.errors import ProvisioningError
from deploy.settings import Settings

_NO_STACK: Final = frozenset({"REVIEW_IN_PROGRESS", "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"})
"""States of a stack in which nothing runs: the CDK CLI deletes it and creates it again."""
_NOT_THERE: Final = frozenset({"CREATE_FAILED", "DELETE_COMPLETE", "DELETE_SKIPPED"})
_ASSETS: Final = "-container-assets-"
"""Part of the name of the repository that `cdk bootstrap` creates."""


class Unreadable(ProvisioningError):
    """The state in AWS cannot be read."""


def client(service: Any, settings: Settings) -> Any:
    return boto3.Session(region_name=settings.region).client(service)


def is_first(settings: Settings) -> bool:
    """Return whether the next deployment creates the stack."""
    found = _stack(settings)
    return found is None or found["StackStatus"] in _NO_STACK


def first(settings: Settings) -> dict[str, bool]:
    """Return, for each parameter about a first deployment, whether the next deployment creates that service."""
    is_new = is_first(settings)
    made = [
        resource["LogicalResourceId"]
        for resource in ([] if is_new else _resources(settings))
        if resource["ResourceType"] == "AWS::ECS::Service"
    ]
    return {
        parameter: is_new if parameter == FIRST_PARAMETER else not any(id_.startswith(service) for id_ in made)
        for parameter, service in firsts(settings).items()
    }


def desired_tasks(settings: Settings) -> int:
    """Return how many tasks ECS should run now, as set by the first deployment or by autoscaling since then."""
    found = _stack(settings)
    if found is None:
        raise ProvisioningError(f"there is no stack {settings.stack_name}; run `make deploy`")
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
    ecs = client("ecs", settings)
    (service,) = ecs.describe_services(cluster=outputs["ClusterName"], services=[outputs["ServiceName"]])["services"]
    return int(service["desiredCount"])


def own_resources(settings: Settings) -> set[str]:
    """Return the physical ids of the stack's resources; empty without a stack."""
    return {found.get("PhysicalResourceId", "") for found in _resources(settings)}


def images(settings: Settings) -> list[str]:
    """Return the ECR images that the stack's tasks run and this project built: no stack owns them."""
    definitions = [
        found["PhysicalResourceId"]
        for found in _resources(settings)
        if found["ResourceType"] == "AWS::ECS::TaskDefinition" and "PhysicalResourceId" in found
    ]
    ecs = client("ecs", settings)
    described = [ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"] for arn in definitions]
    found = {container["image"] for each in described for container in each["containerDefinitions"]}
    return sorted(image for image in found if _ASSETS in image)


def deletion(settings: Settings, image: str) -> str:
    """Return the command that deletes an image."""
    repository, tag = image.partition("/")[2].rsplit(":", 1)
    command = ("aws", "ecr", "batch-delete-image", "--region", settings.region, "--repository-name", repository)
    return shlex.join([*command, "--image-ids", f"imageTag={tag}"])


def _resources(settings: Settings) -> list[Mapping[str, Any]]:
    """List the stack's resources, without those never created, deleted, or retained outside the stack."""
    if is_first(settings):
        return []
    pages = client("cloudformation", settings).get_paginator("list_stack_resources")
    try:
        listed = list(pages.paginate(StackName=settings.stack_name))
    except (BotoCoreError, ClientError) as error:
        raise _unreadable(settings, error) from None
    found = [resource for page in listed for resource in page["StackResourceSummaries"]]
    return [resource for resource in found if resource["ResourceStatus"] not in _NOT_THERE]


def _stack(settings: Settings) -> dict[str, Any] | None:
    try:
        (found,) = client("cloudformation", settings).describe_stacks(StackName=settings.stack_name)["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":  # CloudFormation's code for "does not exist"
            return None
        raise _unreadable(settings, error) from None
    except BotoCoreError as error:
        raise _unreadable(settings, error) from None
    return dict(found)


def _unreadable(settings: Settings, error: Exception) -> Unreadable:
    return Unreadable(f"stack {settings.stack_name}: AWS says {error}; see that you may read it")
