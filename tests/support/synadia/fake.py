"""A fake control plane: it keeps state, obeys Synadia's own OpenAPI document, and signs users as configured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from tests.support.synadia.handlers import Handle, Missing, handlers
from tests.support.synadia.openapi import Document
from tests.support.synadia.state import Failure, FakeSynadia

__all__ = ["TOKEN", "Failure", "FakeSynadia", "fake_synadia", "refused"]

TOKEN: Final = "uat_the_token_of_the_tests"
DOCUMENT: Final = Document(Path(__file__).with_name("synadia-openapi.json"))
API: Final = "/api"
ANSWERS_JUDGED: Final = 20
"""Answers that are validated, per operation: they are the fake's, and each takes milliseconds. All requests are."""


def refused(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


@asynccontextmanager
async def fake_synadia() -> AsyncIterator[FakeSynadia]:
    """Yield a fake. It fails the test if a request or an answer is not in the document."""
    fake = FakeSynadia()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _dispatch(fake, handlers(fake)))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}{API}"
        fake.add_account("SYS", system=True)
        yield fake
    finally:
        await runner.cleanup()
    assert fake.deviations == []


def _dispatch(
    fake: FakeSynadia, operations: dict[str, Handle]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def dispatch(request: web.Request) -> web.StreamResponse:
        number, path = len(fake.calls), request.path.removeprefix(API)
        fake.calls.append((request.method, request.path))
        body = await request.read()
        fake.bodies.append(json.loads(body) if body else None)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refused(401, "token is expired")
        if fake.answer_with:
            return fake.answer_with.pop(0)
        if fake.intercept and (instead := fake.intercept(number)):
            return instead
        failing = fake.fail_from is not None and number >= fake.fail_from
        if failing and fake.failure == "500":
            return refused(500, "out of order")
        if failing and fake.failure == "lost before":
            return _lose(request)
        response = _judged(fake, operations, request.method, path, request.content_type, body)
        return _lose(request) if failing else response

    return dispatch


def _lose(request: web.Request) -> web.Response:
    assert request.transport
    request.transport.abort()
    raise asyncio.CancelledError


def _judged(
    fake: FakeSynadia, operations: dict[str, Handle], method: str, path: str, content_type: str, body: bytes
) -> web.Response:
    found = DOCUMENT.operation(method, path)
    if found is None:
        return refused(404, "no such path")
    operation, ids = found
    problems = DOCUMENT.request_problems(operation, content_type, body)
    if problems:
        fake.deviations += [f"{method} {path}: {problem}" for problem in problems]
        return refused(400, problems[0])
    try:
        status, answer = operations[operation["operationId"]](ids, json.loads(body or b"null"))
    except Missing as error:
        return refused(404, str(error))
    if status >= 400:
        return refused(status, answer)
    raw = answer.encode() if isinstance(answer, str) else b"" if answer is None else json.dumps(answer).encode()
    kind = "text/plain" if isinstance(answer, str) else "application/json"
    fake.answered[operation["operationId"]] += 1
    if fake.answered[operation["operationId"]] <= ANSWERS_JUDGED:
        problems = DOCUMENT.response_problems(operation, status, kind, raw)
        fake.deviations += [f"the answer to {method} {path}: {problem}" for problem in problems]
    return web.Response(status=status, body=raw, content_type=kind)
