"""Calls to Synadia's REST API: retried where that is safe; what goes wrong is one line with the server's reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from control_plane.errors import ProvisioningError

BASE_URL: Final = "https://cloud.synadia.com/api"
TIMEOUT_S: Final = 30.0
ATTEMPTS: Final = 5
MAX_WAIT_S: Final = 60.0
_backoff: Final = wait_random_exponential(multiplier=0.2, max=5.0)

_REMEDIES: Final = {
    400: "this program and the API disagree; report it",
    401: "make a new personal access token (Synadia Cloud, profile, personal access tokens)",
    403: "ask an owner of the team for the rights",
    404: "it may have been deleted meanwhile; run it again",
    409: "choose other initials, or delete the other one",
    422: "free some of the quota, or choose a larger tier",
    429: "wait a minute and run it again",
}


class _BusyError(Exception):
    """An answer that may be another one in a moment."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response


class Api:
    """The API, as the owner of a personal access token. Use `connect`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str) -> Any:
        return (await self._send("GET", path)).json()

    async def items(self, path: str) -> list[dict[str, Any]]:
        """Every item of a list, page after page (RFC 8288: `Link` with `rel="next"`)."""
        found: list[dict[str, Any]] = []
        page: str | None = path
        while page is not None:
            response = await self._send("GET", page)
            found += response.json()["items"]
            following = response.links.get("next", {}).get("url")
            page = str(response.url.join(following)) if following else None
            if page is not None and httpx.URL(page).netloc != response.url.netloc:
                raise ProvisioningError("the next page of a list is on another host; the token is not sent there")
        return found

    async def post(self, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        """Make something. Repeated only when it cannot have been made, unless it is `repeatable` all the same."""
        response = await self._send("POST", path, body, repeatable=repeatable)
        return response.json() if "json" in response.headers.get("content-type", "") else response.text

    async def patch(self, path: str, body: Any) -> Any:
        return (await self._send("PATCH", path, body)).json()

    async def put(self, path: str, body: Any) -> Any:
        return (await self._send("PUT", path, body)).json()

    async def delete(self, path: str) -> None:
        """Content when there is nothing to delete."""
        await self._send("DELETE", path, missing_ok=True)

    async def _send(
        self, method: str, path: str, body: Any = None, *, repeatable: bool = True, missing_ok: bool = False
    ) -> httpx.Response:
        def again(error: BaseException) -> bool:
            if isinstance(error, _BusyError):
                return repeatable or error.response.status_code == httpx.codes.TOO_MANY_REQUESTS
            return isinstance(error, httpx.ConnectError) or (repeatable and isinstance(error, httpx.TransportError))

        retrying = AsyncRetrying(
            retry=retry_if_exception(again), wait=_wait_s, stop=stop_after_attempt(ATTEMPTS), reraise=True
        )
        try:
            response: httpx.Response = await retrying(self._once, method, path, body)
        except _BusyError as error:
            raise _refusal(method, path, error.response) from None
        except httpx.HTTPError as error:
            problem = f"{self._http.base_url.host} cannot be reached ({str(error) or type(error).__name__})"
            raise ProvisioningError(f"{problem}; run it again, it goes on where it stopped") from None
        if response.is_success or (missing_ok and response.status_code == httpx.codes.NOT_FOUND):
            return response
        raise _refusal(method, path, response)

    async def _once(self, method: str, path: str, body: Any) -> httpx.Response:
        response = await self._http.request(method, path, json=body)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise _BusyError(response)
        return response


@asynccontextmanager
async def connect(token: str, base_url: str = BASE_URL) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/plain"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=TIMEOUT_S) as http:
        yield Api(http)


def _wait_s(state: RetryCallState) -> float:
    """As long as the server asks for (`Retry-After`, in seconds), else jittered backoff."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, _BusyError) else ""
    return min(MAX_WAIT_S, float(asked)) if asked.isdigit() else _backoff(state)


def _refusal(method: str, path: str, response: httpx.Response) -> ProvisioningError:
    status = response.status_code
    remedy = _REMEDIES.get(status, "run it again, it goes on where it stopped")
    return ProvisioningError(f"Synadia says {status} to {method} {path}: {_reason(response)}; {remedy}")


def _reason(response: httpx.Response) -> str:
    """The server's own words, on one line."""
    try:
        body = response.json()
    except ValueError:
        body = None
    words = [body.get(key) for key in ("message", "error", "detail")] if isinstance(body, dict) else []
    said = next(filter(None, [*words, response.text, response.reason_phrase]))
    return " ".join(str(said).split())[:300]
