"""A person's deployment for tests: settings and credentials, moto for AWS, and what the CDK CLI was asked to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from cdk import __main__ as cdk_main
from cdk import deployed
from deploy.settings import Settings

run = CliRunner().invoke

IMAGE = "123456789012.dkr.ecr.eu-north-1.amazonaws.com/cdk-hnb659fds-container-assets-123456789012-eu-north-1:0a1b"
STACK = {
    "Parameters": {"Tasks": {"Type": "Number"}},
    "Resources": {
        "Cluster": {"Type": "AWS::ECS::Cluster"},
        "Definition": {
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": {"Family": "dp", "ContainerDefinitions": [{"Name": "a", "Image": IMAGE, "Memory": 128}]},
        },
        "Service": {
            "Type": "AWS::ECS::Service",
            "Properties": {
                "Cluster": {"Ref": "Cluster"},
                "ServiceName": "dp",
                "TaskDefinition": {"Ref": "Definition"},
                "DesiredCount": {"Ref": "Tasks"},
            },
        },
    },
    "Outputs": {
        "ClusterName": {"Value": {"Ref": "Cluster"}},
        "ServiceName": {"Value": {"Fn::GetAtt": ["Service", "Name"]}},
    },
}
"""What `make deploy` looks at of a deployed stack."""

TABLE: Any = {
    "TableName": "customer-balances-DP",
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "BillingMode": "PAY_PER_REQUEST",
}


@dataclass
class Deployment:
    """A person's settings and credentials, with moto for AWS, and what the CDK CLI was asked to do."""

    settings: Settings
    folder: Path
    asked: list[list[str]] = field(default_factory=list)

    def cdk(self, arguments: Sequence[str], settings: Settings) -> None:
        self.asked.append(list(arguments))
        cloudformation = deployed.client("cloudformation", settings)
        if arguments[0] == "deploy" and deployed.is_first(settings):
            cloudformation.create_stack(
                StackName=settings.stack_name,
                TemplateBody=json.dumps(STACK),
                Parameters=[{"ParameterKey": "Tasks", "ParameterValue": str(settings.tasks)}],
            )
        if arguments[0] == "destroy":
            cloudformation.delete_stack(StackName=settings.stack_name)


def deploy(*arguments: str) -> Result:
    return run(cdk_main.cli, ["deploy", *arguments])
