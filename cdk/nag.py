"""cdk-nag's AwsSolutions rules, and why each remaining finding is intended."""

from __future__ import annotations

from typing import Final

from aws_cdk import Acknowledgment, App, Validations
from cdk_nag import AwsSolutionsChecks
from constructs import IConstruct

REASONS: Final = {
    "AwsSolutions::AwsSolutions-ECS2": (
        "The environment holds addresses and limits; the one secret comes from Secrets Manager."
    ),
    "AwsSolutions::AwsSolutions-IAM5[Resource::*]": (
        "The execution role's ecr:GetAuthorizationToken has no resource to be limited to."
    ),
    "AwsSolutions::AwsSolutions-ECS4": (
        "Container Insights tells nothing that the service's own metrics, and ECS' CPU and memory, do not."
    ),
    "CloudFormation-Validate::W2509": "The parameter is a secret's ARN, not the secret.",
}


def check(app: App, stack: IConstruct) -> None:
    """Check every synthesis; a finding without a reason fails it."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    acknowledge(stack)


def acknowledge(stack: IConstruct) -> None:
    for rule, reason in REASONS.items():
        Validations.of(stack).acknowledge(Acknowledgment(id=rule, reason=reason))
