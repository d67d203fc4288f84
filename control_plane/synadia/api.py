"""Call Synadia's REST API: retry where that is safe, and report failures in one line with the server's reason."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from control_plane.errors import ProvisioningError, UsageError

BASE_URL: Final = "https://cloud.synadia.com/api"
TIMEOUT_S: Final = 30.0
ATTEMPTS: Final = 5
MAX_WAIT_S: Final = 60.0
SILENT_S: Final = 2.0
_backoff: Final = wait_random_exponential(multiplier=0.2, max=5.0)
_sleep: Final = asyncio.sleep
_AGAIN: Final = (httpx.ConnectError, httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)

_REMEDIES: Final = {
    400: "this program and the API disagree; report it",
    401: "make a new personal access token (Synadia Cloud, profile, personal access tokens)",
    403: "ask an owner of the team for the rights",
    404: "it may have been deleted meanwhile, or --api does not end in /api; run it again",
    409: "choose other initials, or delete the other one",
    422: "free some of the quota, or choose a larger tier",
    429: "wait a minute and run it again",
}
_GO_ON: Final = "run it again, it goes on where it stopped"

Say = Callable[[str], None]


class Answer(dict[str, Any]):
    """An object in an answer. Reading a documented field that it lacks raises `ProvisioningError`."""

    def __missing__(self, name: str) -> Any:
        raise ProvisioningError(f"an answer of the API lacks {name!r}; see that --api is right, and run it again")


class _BusyError(Exception):
    """The API was busy or failed: the same request may succeed soon."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


class Api:
    """The API, called with a personal access token. Made by `connect`."""

    def __init__(self, http: httpx.AsyncClient, say: Say) -> None:
        self._http = http
        self._say = say

    async def get(self, path: str) -> Answer:
        return self._body(await self._send("GET", path))

    async def find(self, path: str) -> Answer | None:
        """Return the object at the path, or None if it does not exist."""
        response = await self._send("GET", path, missing_ok=True)
        return self._body(response) if response.is_success else None

    async def items(self, path: str) -> list[Answer]:
        """Return every item of a list; the API does not split lists into pages."""
        response = await self._send("GET", path)
        items = self._body(response).get("items")
        if not isinstance(items, list) or not all(isinstance(item, Answer) for item in items):
            raise _unexpected(response)
        return items

    async def post(self, path: str, body: Any = None) -> Answer:
        """Create an object. Retries only if it cannot have been created."""
        return self._body(await self._send("POST", path, body, repeatable=False))

    async def text(self, path: str) -> str:
        """Return the answer to a `POST` that changes nothing."""
        return (await self._send("POST", path)).text

    async def order(self, path: str) -> None:
        """Send a `POST` once and ignore its answer."""
        await self._send("POST", path, repeatable=False)

    async def patch(self, path: str, body: Any) -> None:
        await self._send("PATCH", path, body)

    async def put(self, path: str, body: Any) -> None:
        await self._send("PUT", path, body)

    async def delete(self, path: str) -> None:
        """Delete an object; succeed if it does not exist."""
        await self._send("DELETE", path, missing_ok=True)

    def _body(self, response: httpx.Response) -> Answer:
        try:
            body = response.json(object_hook=Answer)
        except ValueError:
            body = None
        if not isinstance(body, Answer):
            raise _unexpected(response)
        return body

    async def _send(
        self, method: str, path: str, body: Any = None, *, repeatable: bool = True, missing_ok: bool = False
    ) -> httpx.Response:
        def again(error: BaseException) -> bool:
            if isinstance(error, _BusyError):
                too_late = _asked_s(error.response) > MAX_WAIT_S
                return not too_late and (repeatable or error.response.status_code == httpx.codes.TOO_MANY_REQUESTS)
            return isinstance(error, httpx.ConnectError) or (repeatable and isinstance(error, _AGAIN))

        retrying = AsyncRetrying(
            retry=retry_if_exception(again),
            sleep=_sleep,
            wait=_wait_s,
            stop=stop_after_attempt(ATTEMPTS),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            response: httpx.Response = await retrying(self._once, method, path, body)
        except _BusyError as error:
            raise self._refusal(method, path, error.response) from None
        except httpx.HTTPError as error:
            raise ProvisioningError(f"{self._lost(error)}; {_GO_ON}") from None
        if response.is_success or (missing_ok and response.status_code == httpx.codes.NOT_FOUND):
            return response
        raise self._refusal(method, path, response)

    async def _once(self, method: str, path: str, body: Any) -> httpx.Response:
        host = self._http.base_url.host
        waiting = asyncio.get_running_loop().call_later(SILENT_S, self._say, f"waiting for {host} to answer")
        try:
            response = await self._http.request(method, path, json=body)
        finally:
            waiting.cancel()
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise _BusyError(response)
        return response

    def _tell(self, state: RetryCallState) -> None:
        """Say how long the coming wait is, and why, if a person would notice it."""
        sleep_s = state.next_action.sleep if state.next_action else 0.0
        if sleep_s <= SILENT_S:
            return
        error = state.outcome.exception() if state.outcome else None
        reason = f"it says {error.response.status_code}" if isinstance(error, _BusyError) else "it was not reached"
        self._say(f"waiting {sleep_s:.0f} s for {self._http.base_url.host}: {reason}")

    def _refusal(self, method: str, path: str, response: httpx.Response) -> ProvisioningError:
        status, asked_s = response.status_code, _asked_s(response)
        remedy = f"see that --api is right, for example {BASE_URL}" if response.is_redirect else _GO_ON
        remedy = _REMEDIES.get(status, remedy)
        if asked_s > MAX_WAIT_S:
            remedy = f"it asks to come back in {asked_s:.0f} s; {_GO_ON}"
        token = self._http.headers["Authorization"].removeprefix("Bearer ")
        reason = _reason(response).replace(token, "(the token)")
        return ProvisioningError(f"Synadia says {status} to {method} {path}: {reason}; {remedy}")

    def _lost(self, error: httpx.HTTPError) -> str:
        host, reason = self._http.base_url.host, str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return f"{host} cannot be reached ({reason})"
        return f"the connection to {host} was lost ({reason})"


@asynccontextmanager
async def connect(token: str, base_url: str = BASE_URL, say: Say = lambda _: None) -> AsyncIterator[Api]:
    """Yield the API. Raises `UsageError` for an invalid token or address. Calls `say` before each long wait."""
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError("the personal access token is not one line of plain characters; copy it again")
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/plain"}
    async with httpx.AsyncClient(
        base_url=_address(base_url), headers=headers, timeout=TIMEOUT_S, verify=_certificates()
    ) as http:
        yield Api(http, say)


@cache
def _certificates() -> ssl.SSLContext:
    """Read the CA certificates once: it takes a tenth of a second."""
    return httpx.create_ssl_context()


def _address(given: str) -> httpx.URL:
    try:
        url = httpx.URL(given)
        valid = url.scheme in {"http", "https"} and bool(url.host) and (url.port or 1) < 1 << 16
    except (httpx.InvalidURL, ValueError):
        valid = False
    if not valid:
        raise UsageError(f"--api {given} is not an address; it looks like {BASE_URL}")
    return url


def _wait_s(state: RetryCallState) -> float:
    """Return the wait that the server asks for, else a jittered backoff."""
    error = state.outcome.exception() if state.outcome else None
    asked_s = _asked_s(error.response) if isinstance(error, _BusyError) else -1.0
    return asked_s if asked_s >= 0 else _backoff(state)


def _asked_s(response: httpx.Response) -> float:
    """Return `Retry-After` in seconds, from a number or a date (RFC 9110, 10.2.3); -1 if it is absent."""
    asked = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", asked):
        return float(asked)
    at = _second(asked)
    return -1.0 if at is None else max(0.0, at - (_second(response.headers.get("Date", "")) or time.time()))


def _second(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _unexpected(response: httpx.Response) -> ProvisioningError:
    asked = f"{response.request.method} {response.request.url.path}"
    return ProvisioningError(
        f"the answer to {asked} is not from Synadia's API; see that --api ends in /api, and run it again"
    )


def _reason(response: httpx.Response) -> str:
    """Return the server's message on one line."""
    try:
        body = response.json()
    except ValueError:
        body = None
    words = [body.get(key) for key in ("message", "error", "detail")] if isinstance(body, dict) else []
    said = next(filter(None, [*words, response.text, response.reason_phrase]), "no reason")
    return " ".join(str(said).split())[:300]
