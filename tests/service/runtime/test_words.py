"""No setting's error speaks in pydantic's words or in regular expressions."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deploy.settings import Settings as Deployment
from service.__main__ import ROLES
from service.runtime.words import in_words

MODELS = [Deployment, *(pkgutil.resolve_name(role).SETTINGS for role in ROLES.values())]


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for part in schema.values():
            yield from patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from patterns(part)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__module__)
def test_each_form_has_words(model: type[BaseModel]) -> None:
    found = set(patterns(model.model_json_schema()))
    assert found
    for pattern in found:
        words = in_words({"type": "string_pattern_mismatch", "msg": "", "ctx": {"pattern": pattern}})
        assert pattern not in words, f"{pattern} has no words in service/runtime/words.py"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": "red"}, "there is no setting of that name"),
        ({"cpu": "many"}, "must be a whole number"),
        ({"spot": "perhaps"}, "must be true or false"),
        ({"max_tasks": 0}, "must be at least 1"),
        ({"environment": "test"}, "must be 'poc' or 'production'"),
        ({"vpc_id": "mine"}, "must be a VPC's id, such as vpc-0123abcd"),
        ({"existing_table": "?"}, "must be a table's name: 3 to 255 letters, digits, `_`, `.` or `-`"),
    ],
)
def test_what_a_person_reads(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Deployment(region="eu-west-1", initials="DO", **given)
    assert in_words(caught.value.errors()[0]) == words
