"""The interface as an AsyncAPI 3.0 document: https://www.asyncapi.com/docs/reference/specification/v3.0.0"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from operations.interface.announced import ERROR_SCHEMA, EVENTS, Announced, Event, announced
from service import __version__
from service.contracts import customer as contract
from service.requests.errors import ERRORS

HEAD: Final = "# Made by `make interface` from service/contracts: do not edit.\n"
ERROR: Final = "error"

_CODES: Final = sorted({error.code for error in ERRORS})
_ERROR_HEADERS: Final = {
    "type": "object",
    "required": ["Nats-Service-Error-Code", "Nats-Service-Error"],
    "properties": {
        "Nats-Service-Error-Code": {"type": "string", "enum": _CODES},
        "Nats-Service-Error": {"type": "string", "enum": [error.description for error in ERRORS]},
    },
}
_EVENT_HEADERS: Final = {
    "type": "object",
    "properties": {"Nats-Msg-Id": {"type": "string", "description": "The stream stores an id once in two minutes."}},
}


def text() -> str:
    dumped: str = yaml.dump(document(), Dumper=_Plain, sort_keys=False, width=118, allow_unicode=True)
    return HEAD + dumped


def document() -> dict[str, Any]:
    endpoints = announced()
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {
        ERROR: {
            "summary": "Why a request cannot be answered.",
            "headers": _ERROR_HEADERS,
            "payload": ERROR_SCHEMA,
            "examples": [
                {
                    "headers": {"Nats-Service-Error-Code": error.code, "Nats-Service-Error": error.description},
                    "payload": {"error": error.__doc__},
                }
                for error in ERRORS
            ],
        }
    }
    for endpoint in endpoints:
        messages |= _messages(endpoint)
        channels |= _channels(endpoint)
        operations[endpoint.name] = _operation(endpoint)
    for event in EVENTS:
        messages[event.name] = {
            "summary": event.note,
            "headers": _EVENT_HEADERS,
            "payload": _payload(event.schema),
            "examples": [{"payload": dict(event.example)}],
        }
        channels[event.name] = _event_channel(event)
        operations[f"publish{event.name[0].upper()}{event.name[1:]}"] = {
            "action": "send",
            "summary": event.note,
            "channel": {"$ref": f"#/channels/{event.name}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Customer balance",
            "version": __version__,
            "description": "Loyalty balances, and devices, over NATS. docs/interface.md says the same in prose.",
            "license": {"name": "MIT-0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "synadia": {
                "host": "connect.ngs.global",
                "protocol": "nats",
                "description": "Synadia Cloud, with TLS.",
                "security": [{"$ref": "#/components/securitySchemes/creds"}],
            },
            "local": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "The server that `make up` starts.",
                "security": [{"$ref": "#/components/securitySchemes/creds"}],
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "securitySchemes": {
                "creds": {
                    "type": "asymmetricEncryption",
                    "description": "A .creds file: a JWT, and the nkey that signs the server's nonce.",
                }
            },
        },
    }


def _messages(endpoint: Announced) -> dict[str, Any]:
    return {
        f"{endpoint.name}Request": {
            "payload": _payload(endpoint.request_schema),
            "examples": [{"payload": dict(endpoint.promise.request)}],
        },
        f"{endpoint.name}Reply": {
            "payload": _payload(endpoint.response_schema),
            "examples": [{"payload": dict(endpoint.promise.reply)}],
        },
    }


def _channels(endpoint: Announced) -> dict[str, Any]:
    request, reply = f"{endpoint.name}Request", f"{endpoint.name}Reply"
    return {
        endpoint.name: {
            "address": endpoint.subject,
            "messages": {request: {"$ref": f"#/components/messages/{request}"}},
        },
        reply: {
            "address": None,  # the requester's inbox
            "description": "The requester's inbox, a subject that begins with `_`.",
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (reply, ERROR)},
        },
    }


def _operation(endpoint: Announced) -> dict[str, Any]:
    reply = f"{endpoint.name}Reply"
    users = ", ".join(endpoint.users)
    return {
        "action": "receive",
        "summary": endpoint.description,
        "description": " ".join((*endpoint.promise.notes, f"Users who may ask: {users}.")),
        "channel": {"$ref": f"#/channels/{endpoint.name}"},
        "bindings": {"nats": {"queue": endpoint.queue_group, "bindingVersion": "0.1.0"}},
        "reply": {"channel": {"$ref": f"#/channels/{reply}"}},
    }


def _event_channel(event: Event) -> dict[str, Any]:
    return {
        "address": f"{event.prefix}{{{contract.ADJUSTMENTS_PARTITION_KEY}}}",
        "description": "Stored in the stream customer-balances.",
        "parameters": {contract.ADJUSTMENTS_PARTITION_KEY: {"description": "The client's id, one subject token."}},
        "messages": {event.name: {"$ref": f"#/components/messages/{event.name}"}},
    }


def _payload(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without its dialect: AsyncAPI has its own, and these schemas mean the same in both."""
    return {name: value for name, value in schema.items() if name != "$schema"}


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # its types are not installed
    """Write YAML without anchors: each part is repeated where it is used."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True
