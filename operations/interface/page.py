"""The interface as a page: docs/interface.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from operations.interface.announced import EVENTS, Announced, announced
from service.requests.errors import ERRORS

HEAD: Final = "<!-- Made by `make interface` from service/contracts: do not edit. -->\n"

_INTRODUCTION: Final = """
# The interface

Requests and replies are JSON, over NATS request/reply. [asyncapi.yaml](asyncapi.yaml) has the same for programs, and
[examples/requester](../examples/requester/README.md) has a requester in Python, Go, JavaScript and shell. The queue
sidecar's gRPC interface is [`service/queue/sqs.proto`](../service/queue/sqs.proto), that of the role `devices`
[`service/devices/query/query.proto`](../service/devices/query/query.proto).

- The reply subject (the inbox) begins with `_`, which is every client's default.
- A `client_id` is one token of a NATS subject: 1 to 128 characters, no white space or control character, no `.`, `*`
  or `>`.
- When no task has room, or none runs, the requester gets "no responders" at once, on any node or cluster. Try again
  after a random 50 to 500 ms, longer each time. Without an answer within five seconds, try again too: every request
  is safe to repeat, but for a `customer.create` without a `client_id`, which makes a second client.
- Fields that are not listed here are ignored.
"""

_REST: Final = """
## Over HTTP

A gateway (Synadia's, or the one of `make up`) passes requests on. The token decides which subjects it may ask:

```sh
curl -X POST "https://api.ngs.global/v1/nats/subjects/customer.create" \\
  -H "authorization: $TOKEN" -d '{"name":"John Doe","created_at":"2024-01-23"}'
```

An error is HTTP 200 too: its body has `error`, and its header is `NatsH-Nats-Service-Error-Code`. With
`accept: application/json` the reply comes wrapped, its bytes in base64.

## Discovery

The service answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, each also with `.customer` (or `.devices`), and with
that and a task's id:
[ADR-32](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md), the NATS services framework.
`$SRV.INFO` has these schemas.
"""


def text() -> str:
    return HEAD + "".join(_parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    yield "\n## Requests\n\n| subject | what it does | users who may ask |\n| --- | --- | --- |\n"
    endpoints = announced()
    for endpoint in endpoints:
        yield (
            f"| [`{endpoint.subject}`](#{endpoint.subject.replace('.', '')}) | {endpoint.description} "
            f"| {', '.join(endpoint.users)} |\n"
        )
    for endpoint in endpoints:
        yield from _endpoint(endpoint)
    yield (
        "\n## Errors\n\nHeaders `Nats-Service-Error-Code` and `Nats-Service-Error`, and a body "
        '`{"error":"..."}` that says what is wrong.\n\n| code | error | meaning |\n| --- | --- | --- |\n'
    )
    for error in ERRORS:
        yield f"| `{error.code}` | `{error.description}` | {error.__doc__} |\n"
    yield (
        "\n## Events\n\nThe stream `customer-balances` stores them, with the header `Nats-Msg-Id`. Each comes at least "
        "once while its task lives: [what is promised](service.md#what-it-promises).\n\n"
        "| subject | what it is | example |\n| --- | --- | --- |\n"
    )
    for event in EVENTS:
        yield f"| `{event.prefix}CLIENT_ID` | {event.note} | `{_json(event.example)}` |\n"
    yield _REST


def _endpoint(endpoint: Announced) -> Iterator[str]:
    promise = endpoint.promise
    yield f"\n### {endpoint.subject}\n\n{endpoint.description}\n\n"
    yield f"```json\n{_json(promise.request)}\n```\n\nis answered with\n\n```json\n{_json(promise.reply)}\n```\n\n"
    yield "".join(f"- {note}\n" for note in promise.notes)
    yield f"- Errors: {', '.join(f'`{error.code} {error.description}`' for error in promise.errors)}.\n"
    yield f"\n| request field | rule | |\n| --- | --- | --- |\n{''.join(_fields(endpoint.request_schema))}"
    yield f"\n| reply field | rule | |\n| --- | --- | --- |\n{''.join(_fields(endpoint.response_schema))}"


def _fields(schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    required = schema.get("required", ())
    for name, rule in schema["properties"].items():
        yield f"| `{prefix}{name}` | {_rule(rule)} | {'required' if name in required else 'optional'} |\n"
        if rule.get("type") == "array":
            yield from _fields(rule["items"], f"{prefix}{name}[].")


def _rule(rule: Mapping[str, Any]) -> str:
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    said = [" or ".join(kinds)]
    if "maxLength" in rule:
        said.append(f"{rule.get('minLength', 0)} to {rule['maxLength']:,} characters")
    if "minimum" in rule:
        said.append(f"{rule['minimum']:,} to {rule['maximum']:,}")
    if "not" in rule:
        said.append(f"not {json.dumps(rule['not']['const'])}")
    formats = [each["format"] for each in (rule, *rule.get("anyOf", ())) if "format" in each]
    if formats:
        said.append(" or ".join(formats))
    if "default" in rule:
        said.append(f"default {json.dumps(rule['default'])}")
    return ", ".join(said)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
