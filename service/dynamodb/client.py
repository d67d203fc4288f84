"""DynamoDB's low-level API: sign, send and decode one call, and classify its errors. The caller retries.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.LowLevelAPI.html
"""

from __future__ import annotations

import asyncio
import re
import zlib
from http import HTTPStatus
from math import inf
from typing import Any, Final

import orjson

from service.dynamodb.credentials import CredentialChain
from service.dynamodb.endpoint import Endpoint, endpoint
from service.dynamodb.errors import STALE_CREDENTIALS, DynamoDBError, InvalidResponse
from service.dynamodb.http import CHECKSUM, ERROR_TYPE, Pool, Response
from service.dynamodb.signature import Signer
from service.runtime.errors import ServiceError

_code: Final = re.compile(r"[A-Za-z0-9.]{1,100}").fullmatch
"""Matches DynamoDB's error codes, by which errors are counted."""
_A_GATEWAYS: Final = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.TOO_MANY_REQUESTS}
"""Statuses, besides 5xx, that a gateway or proxy on the way sends with its own body."""


class DynamoDB:
    """The API at one endpoint, in one region."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._chain = CredentialChain()
        self._timeout_s = timeout_s
        self._account: str | None = None
        self._is_known = False
        """True when `_account` is the credentials' account and `_pool` leads to its endpoint."""
        self._pool: Pool
        self._signer: Signer
        self._reach(endpoint.url or endpoint.account_url or "")
        self._loop = asyncio.get_running_loop()

    @classmethod
    def configured(cls, timeout_s: float) -> DynamoDB:
        """Return a client for the endpoint in the AWS configuration. It connects at the first call.

        Raise `ServiceError` if no region is set or the endpoint is not an address.
        """
        try:
            return cls(endpoint(), timeout_s)
        except ValueError as error:
            raise ServiceError(f"AWS_ENDPOINT_URL_DYNAMODB: {error}", "correct it or unset it") from None

    def close(self) -> None:
        """Close the connections; those in use, when their calls end."""
        self._pool.close()

    def distrust(self) -> None:
        """Drop idle connections: after a mixed-up answer, the next one may belong to another call too."""
        self._pool.drop_idle()

    async def call(
        self, action: str, request: dict[str, Any] | bytes, deadline: float = inf, *, again: bool = True
    ) -> dict[str, Any]:
        """Make one call and return its decoded response by `deadline`, a time of the loop's clock.

        A `bytes` request is already JSON. Credentials, a new connection and the answer may take `timeout_s` seconds
        each. `again`: the call may be executed twice, as a read may (`Pool.post`).
        Raise `DynamoDBError`, `InvalidResponse`, `NoCredentialsError`, `CredentialsRefreshError`, `HttpError`,
        `TimeoutError`, and `ServiceError` if the endpoint needs an account and the credentials name none.
        """
        body = request if isinstance(request, bytes) else orjson.dumps(request)
        credentials = await self._chain.current(min(deadline, self._loop.time() + self._timeout_s))
        if credentials.account_id != self._account or not self._is_known:
            self._use(credentials.account_id)
        headers = self._signer.headers(credentials, action, body)
        pool = self._pool
        response = await pool.post(headers, body, deadline, again=again)
        try:
            return _decoded(response)
        except InvalidResponse:
            pool.drop_idle()  # as `distrust` does
            raise
        except DynamoDBError as error:
            if error.code in STALE_CREDENTIALS:
                self._chain.forget(credentials)
            raise

    def _use(self, account: str | None) -> None:
        """Switch to the endpoint of that account."""
        url = self._endpoint.of(account)
        if url != self._url:
            self._pool.close()
            self._reach(url)
        self._account, self._is_known = account, True

    def _reach(self, url: str) -> None:
        self._url = url
        self._pool = Pool(url, self._timeout_s, self._endpoint.tls, self._endpoint.proxy)
        self._signer = Signer(self._pool.host, self._endpoint.region, self._pool.path)


def _decoded(response: Response) -> dict[str, Any]:
    """Decode the body of a 200.

    Raise `DynamoDBError` if DynamoDB refuses the call, and `InvalidResponse` for a response it never sends.
    """
    for name, value in response.headers:
        if name == CHECKSUM and not _is_sum(value, response.body):
            raise InvalidResponse(f"HTTP {response.status} with a body that does not match its checksum")
    try:
        decoded = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        decoded = None
    is_object = type(decoded) is dict
    if response.status == 200 and is_object:
        return decoded  # type: ignore[no-any-return]
    told = decoded if is_object else {}
    headers = (value.decode("latin-1") for name, value in response.headers if name == ERROR_TYPE)
    kinds = (told.get("__type"), told.get("code"), next(headers, None))
    kind = next((kind for kind in kinds if kind is not None), None)
    if response.status == 200 or kind is None:
        if response.status >= 500 or response.status in _A_GATEWAYS:
            raise DynamoDBError(response.status, f"HTTP {response.status}", "")
        raise InvalidResponse(f"HTTP {response.status} with a body that is not DynamoDB's")
    code = _code_of(str(kind))
    if not _code(code):
        raise InvalidResponse(f"HTTP {response.status} with a code that is not DynamoDB's: {code[:100]!r}")
    raise DynamoDBError(response.status, code, str(told.get("message", told.get("Message", ""))), _reasons(told))


def _reasons(told: dict[str, Any]) -> tuple[str, ...]:
    """Return why each item cancelled its transaction, in the items' order; "None" for an item that did not.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html#API_TransactWriteItems_Errors
    """
    try:
        return tuple([str(reason["Code"]) for reason in told.get("CancellationReasons") or ()])
    except (KeyError, TypeError):
        return ()


def _is_sum(checksum: bytes, body: bytes) -> bool:
    """Compare as numbers, as botocore does. A checksum that is not a number never matches."""
    try:
        return int(checksum) == zlib.crc32(body)
    except ValueError:
        return False


def _code_of(kind: str) -> str:
    """Return `Code` of `namespace#Code`, `Code:http://...` or `http://...#Code`.

    https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html#operation-error-serialization
    """
    if kind.startswith(("http://", "https://")):
        kind = kind.partition("#")[2]
    return kind.partition(":")[0].rpartition("#")[2]
