"""What an update of a stack would replace stays as it is: logical ids, names, keys. A replaced table is an empty one.

Which properties AWS replaces a resource for is said by its own schema of each type (`createOnlyProperties`), of which
cfn-lint has a copy. `python -m tests.cdk.test_pins` writes pins.json again. A line that changes there is a decision:
CHANGELOG.md must say what to do with a deployment that stands.
https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cdk.test_devices import FULL
from tests.support.deploy.stack import template

pytestmark = pytest.mark.xdist_group("templates")

FILE: Final = Path(__file__).with_name("pins.json")
REGION: Final = "eu-west-1"
DEPLOYMENTS: Final[dict[str, dict[str, Any]]] = {
    "poc": {
        "archive": {"enabled": True, "source": "sqs"},
        "queue": {"enabled": True, "image": "handler", "source": "sqs"},
        "devices": {"enabled": True},
    },
    "production": {
        "archive": {"enabled": True}, "queue": {"enabled": True, "image": "handler"},
        "alert_email": "on-call@example.com", **FULL,
    },
}  # fmt: skip
"""Environment -> settings; together they have each optional role and each source."""

CHEAP: Final = frozenset({
    "AWS::CDK::Metadata", "AWS::IAM::Policy", "AWS::IAM::Role", "AWS::EC2::Route", "AWS::EC2::RouteTable",
    "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::FlowLog", "AWS::EC2::VPCGatewayAttachment",
    "AWS::SNS::TopicPolicy", "AWS::SQS::QueuePolicy", "AWS::ECS::TaskDefinition",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
})  # fmt: skip
"""Types that may be replaced: with them goes no data, no address, no name, and no task."""

ALSO_FIXED: Final = {"AWS::DynamoDB::Table": ("LocalSecondaryIndexes",)}
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/LSI.html: only when a table is made."""


def pins(environment: str) -> dict[str, Any]:
    made = template(environment=environment, **DEPLOYMENTS[environment]).to_json()
    resources = {
        id_: {"Type": found["Type"], **_fixed(found["Type"], found.get("Properties", {}))}
        for id_, found in sorted(made["Resources"].items())
        if found["Type"] not in CHEAP
    }
    return {
        "parameters": {name: found.get("Default", "") for name, found in sorted(made["Parameters"].items())},
        "outputs": sorted(made["Outputs"]),
        "resources": resources,
    }


def _fixed(kind: str, properties: dict[str, Any]) -> dict[str, Any]:
    import cfnlint

    schema = cfnlint.schema.manager.PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema
    pointers = [*schema.get("createOnlyProperties", ()), *schema.get("conditionalCreateOnlyProperties", ())]
    names = {pointer.split("/")[2] for pointer in pointers} | set(ALSO_FIXED.get(kind, ()))
    return {name: properties[name] for name in sorted(names & properties.keys())}


@pytest.mark.parametrize("environment", DEPLOYMENTS)
def test_an_update_replaces_nothing_that_is_missed(environment: str) -> None:
    assert pins(environment) == json.loads(FILE.read_text())[environment]


@pytest.mark.parametrize("environment", DEPLOYMENTS)
def test_the_pins_have_what_must_not_be_lost(environment: str) -> None:
    resources = pins(environment)["resources"].values()
    tables = {found["TableName"]: found["KeySchema"] for found in resources if found["Type"] == "AWS::DynamoDB::Table"}
    assert tables.keys() == {
        f"customer-{name}-TT" for name in ("balances", "adjustments", "events", "readings")
    }  # fmt: skip
    assert sum(found["Type"] == "AWS::ECS::Service" for found in resources) == 4


def _lines(found: Any, depth: int) -> str:
    """JSON with a line for each resource, so that a change is one line."""
    if not depth or not isinstance(found, dict):
        return json.dumps(found)
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_lines(found[name], depth - 1)}" for name in found) + "\n}"


if __name__ == "__main__":
    FILE.write_text(_lines({name: pins(name) for name in DEPLOYMENTS}, 3) + "\n")
