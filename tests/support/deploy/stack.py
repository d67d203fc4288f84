"""The stack's template for some settings, made once for each. Only who asks for one imports the CDK and starts Node."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from deploy.settings import Settings


class Template:
    """A synthesized template. Nobody may change it: others get the same."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body

    def to_json(self) -> Any:
        return self._body

    def find_resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return logical id -> resource, of one type."""
        return {id_: found for id_, found in self._body["Resources"].items() if found["Type"] == kind}

    def resource_count_is(self, kind: str, count: int) -> None:
        assert len(self.find_resources(kind)) == count, kind


def settings(**changes: Any) -> Settings:
    return Settings(**{"region": "eu-west-1", "initials": "TT", **changes})


def template(**changes: Any) -> Template:
    return _made(json.dumps(changes, sort_keys=True))


def resources(made: Template, kind: str) -> list[dict[str, Any]]:
    return list(made.find_resources(kind).values())


def lint(made: Template, *regions: str) -> list[str]:
    """Return what cfn-lint finds."""
    import cfnlint

    return [str(match) for match in cfnlint.lint(json.dumps(made.to_json()), regions=[*regions])]


@functools.cache
def _made(changes: str) -> Template:
    """Synthesize, with cdk-nag's rules and the CDK's search for circles."""
    from aws_cdk import App, assertions
    from aws_cdk import aws_ecs as ecs

    from cdk import nag
    from cdk.stack.stack import BalanceStack

    app = App(builtin_cloud_formation_validation=False)  # it only warns, where cdk.json is not read
    image = ecs.ContainerImage.from_registry("registry.example/customer-balance:1")
    given = settings(**json.loads(changes))
    stack = BalanceStack(app, given.stack_name, given, image=image)
    nag.check(app, stack)
    return Template(assertions.Template.from_stack(stack).to_json())
