"""DynamoDB's low-level API: one call, signed, sent, decoded, its errors classified. The caller retries.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.LowLevelAPI.html
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from math import inf
from typing import Any, Final

import orjson

from service.dynamodb.credentials import CredentialChain
from service.dynamodb.endpoint import endpoint
from service.dynamodb.errors import DynamoDBError, InvalidResponse
from service.dynamodb.http import Pool
from service.dynamodb.signature import Signer
from service.runtime.errors import ServiceError

_code: Final = re.compile(r"[A-Za-z0-9.]{1,100}").fullmatch
"""What an error is counted by."""


class DynamoDB:
    """The API of one endpoint, in one region."""

    def __init__(self, pool: Pool, region: str, timeout_s: float) -> None:
        self._pool = pool
        self._signer = Signer(pool.host, region, pool.path)
        self._chain = CredentialChain()
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()

    @classmethod
    def configured(cls, timeout_s: float) -> DynamoDB:
        """Where the AWS configuration says. Connections are made when they are needed.

        Raises `ServiceError` when no region is set or the endpoint is not an address.
        """
        url, region = endpoint()
        try:
            return cls(Pool(url, timeout_s), region, timeout_s)
        except ValueError as error:
            raise ServiceError(f"AWS_ENDPOINT_URL_DYNAMODB: {error}", "correct it or unset it") from None

    def close(self) -> None:
        self._pool.close()

    async def call(self, action: str, request: dict[str, Any], deadline: float = inf) -> dict[str, Any]:
        """One call and its decoded response, by `deadline`, a time of the loop's clock.

        Credentials, a new connection and the answer have `timeout_s` seconds each.
        Raises `DynamoDBError`, `InvalidResponse`, `NoCredentialsError`, `HttpError` and `TimeoutError`.
        """
        body = orjson.dumps(request)
        credentials = await self._chain.current(min(deadline, self._loop.time() + self._timeout_s))
        headers = self._signer.headers(credentials, action, body)
        response = await self._pool.post(headers, body, deadline)
        try:
            decoded = orjson.loads(response.body)
        except orjson.JSONDecodeError:
            decoded = None
        may_be_a_gateways = response.status >= 500 or response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if may_be_a_gateways and (type(decoded) is not dict or "__type" not in decoded):
            raise DynamoDBError(response.status, f"HTTP {response.status}", "")
        if type(decoded) is not dict or (response.status != 200 and "__type" not in decoded):
            self._pool.close()  # what comes on that connection next may be this call's answer
            raise InvalidResponse(f"HTTP {response.status} with a body that is not DynamoDB's")
        if response.status == 200:
            return decoded
        code = str(decoded["__type"]).rpartition("#")[2]
        if not _code(code):
            self._pool.close()
            raise InvalidResponse(f"HTTP {response.status} with a code that is not DynamoDB's: {code[:100]!r}")
        if code == "ExpiredTokenException":
            self._chain.forget()
        raise DynamoDBError(response.status, code, str(decoded.get("message", decoded.get("Message", ""))))
