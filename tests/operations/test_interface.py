"""docs/interface.md and docs/asyncapi.yaml: current, valid, and what a running task announces."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from control_plane.desired import EVERYTHING
from local.process import ROOT
from operations.interface.announced import EVENTS, PROMISES, announced, announcing
from service.contracts import customer as contract
from service.contracts import devices
from tests.support.command import finished
from tests.support.world import World

DOCUMENT = ROOT / "docs" / "asyncapi.yaml"
PACKAGES = ROOT / "operations" / "node_modules" / "@asyncapi"
needs_parser = pytest.mark.skipif(
    not shutil.which("node") or not PACKAGES.exists(), reason="needs Node and `npm ci --prefix operations`"
)


@pytest.fixture(scope="module")
def document() -> Any:
    return yaml.safe_load(DOCUMENT.read_text())


async def test_the_documents_are_current() -> None:
    code, output = await finished("operations.interface", "--check")
    assert code == 0, output


async def test_one_that_is_not_is_named(tmp_path: Path) -> None:
    assert (await finished("operations.interface", "--docs", str(tmp_path)))[0] == 0
    (tmp_path / "asyncapi.yaml").write_text("")
    (tmp_path / "interface.md").unlink()
    code, output = await finished("operations.interface", "--check", "--docs", str(tmp_path))
    assert code == 1
    assert "interface.md, asyncapi.yaml; run make interface" in output


@needs_parser
def test_asyncapis_own_parser_takes_it() -> None:
    assert parsed(DOCUMENT) == (0, "")


@needs_parser
def test_the_parser_sees_a_reference_to_nothing(document: Any, tmp_path: Path) -> None:
    document["operations"]["balance"]["channel"]["$ref"] = "#/channels/nowhere"
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(document))
    code, output = parsed(tmp_path / "wrong.yaml")
    assert code == 1
    assert "nowhere" in output


def parsed(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["node", str(ROOT / "operations" / "interface" / "valid.mjs"), str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@needs_parser
def test_it_keeps_to_asyncapis_json_schema(document: Any) -> None:
    schema = json.loads((PACKAGES / "specs" / "schemas" / "3.0.0.json").read_text())
    jsonschema.Draft7Validator(schema).validate(document)


@pytest.mark.parametrize("subject", PROMISES)
def test_each_example_is_its_schemas(subject: str) -> None:
    (endpoint,) = [each for each in announced() if each.subject == subject]
    jsonschema.Draft202012Validator(endpoint.request_schema).validate(dict(endpoint.promise.request))
    jsonschema.Draft202012Validator(endpoint.response_schema).validate(dict(endpoint.promise.reply))


def test_each_event_is_its_schemas() -> None:
    for event in EVENTS:
        jsonschema.Draft202012Validator(event.schema).validate(dict(event.example))


def test_every_request_is_documented_and_each_user_who_may_ask() -> None:
    subjects = {*contract.REQUESTS, devices.GET_SUBJECT, devices.LIST_SUBJECT}
    assert {endpoint.subject for endpoint in announced()} == subjects
    asking = {endpoint.subject: set(endpoint.users) for endpoint in announced()}
    for user in EVERYTHING.users:
        for subject, users in asking.items():
            assert (subject in user.publish) == (user.name in users), (user.name, subject)


async def test_a_running_task_announces_the_same(world: World) -> None:
    async with world.task(**await world.with_adjustments()), world.client() as client:
        info = orjson.loads((await client.request("$SRV.INFO.customer", b"", timeout=5)).data)
    told = [
        (each["name"], each["subject"], each["queue_group"], each["metadata"]["description"])
        for each in info["endpoints"]
    ]
    documented = [each for each in await announcing() if each.subject in contract.REQUESTS]
    assert told == [(each.name, each.subject, each.queue_group, each.description) for each in documented]
