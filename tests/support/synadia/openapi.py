"""Validate every request and answer by an OpenAPI 3.0 document: types, enums and unknown fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator


class Document:
    """https://spec.openapis.org/oas/v3.0.3; its schemas are turned into JSON Schema of 2020-12."""

    def __init__(self, path: Path) -> None:
        self._document = json.loads(path.read_text())
        schemas = self._document["components"]["schemas"]
        self._definitions = {name: _converted(schema, closed=False) for name, schema in schemas.items()}
        self._validators: dict[int, Draft202012Validator] = {}
        self._judged: dict[tuple[int, bytes], list[str]] = {}
        self._paths = [(_pattern(template), methods) for template, methods in self._document["paths"].items()]

    def operation(self, method: str, path: str) -> tuple[Mapping[str, Any], dict[str, str]] | None:
        """Return what the document says about a method and path, and the path's parameters; None if it says nothing."""
        for pattern, methods in self._paths:
            found = pattern.fullmatch(path)
            if found and method.lower() in methods:
                return methods[method.lower()], found.groupdict()
        return None

    def request_problems(self, operation: Mapping[str, Any], content_type: str, body: bytes) -> list[str]:
        if "requestBody" not in operation:
            return ["a body where there is to be none"] if body else []
        content = operation["requestBody"]["content"]
        if content_type not in content:
            return [f"content type {content_type!r}, not one of {list(content)}"]
        return self._problems(content[content_type]["schema"], body)

    def response_problems(
        self, operation: Mapping[str, Any], status: int, content_type: str, body: bytes
    ) -> list[str]:  # fmt: skip
        if str(status) not in operation["responses"]:
            return [f"status {status}, not one of {list(operation['responses'])}"]
        content = operation["responses"][str(status)].get("content")
        if content is None:
            return ["a body where there is to be none"] if body else []
        if content_type not in content:
            return [f"content type {content_type!r}, not one of {list(content)}"]
        if content_type == "text/plain":
            return []
        return self._problems(content[content_type]["schema"], body)

    def _problems(self, schema: Mapping[str, Any], body: bytes) -> list[str]:
        """Validate each distinct body once: it takes milliseconds, and most are repeated."""
        key = id(schema)  # schemas live as long as the document
        if (key, body) not in self._judged:
            self._judged[key, body] = self._judge(schema, body)
        return self._judged[key, body]

    def _judge(self, schema: Mapping[str, Any], body: bytes) -> list[str]:
        try:
            value = json.loads(body)
        except ValueError:
            return ["not JSON"]
        if id(schema) not in self._validators:
            whole = {"$defs": self._definitions, **_converted(schema, closed=True)}
            self._validators[id(schema)] = Draft202012Validator(whole)
        errors = self._validators[id(schema)].iter_errors(value)
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))


def _converted(schema: Mapping[str, Any], *, closed: bool) -> dict[str, Any]:
    """Convert a schema. `closed`: an unknown field is an error; the parts of an `allOf` are closed as a whole."""
    if "$ref" in schema:
        reference = "#/$defs/" + schema["$ref"].rpartition("/")[2]
        return {"$ref": reference, "unevaluatedProperties": False} if closed else {"$ref": reference}
    made = {key: value for key, value in schema.items() if key in _KEPT}
    if "properties" in schema:
        properties = schema["properties"].items()
        made["properties"] = {name: _converted(each, closed=True) for name, each in properties}
    if "items" in schema:
        made["items"] = _converted(schema["items"], closed=True)
    if "allOf" in schema:
        made["allOf"] = [_converted(each, closed=False) for each in schema["allOf"]]
    if isinstance(schema.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _converted(schema["additionalProperties"], closed=True)
    if closed and ("properties" in schema or "allOf" in schema):
        made["unevaluatedProperties"] = False
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made


_KEPT = ("type", "enum", "required", "minimum", "maximum")
