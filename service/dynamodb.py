"""DynamoDB's low-level API: signed, sent, decoded, its errors told apart. One call each time; who asks retries.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.LowLevelAPI.html
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from typing import Any, Final

import orjson
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.session import Session

from service.http import Pool

_BUSY: Final = {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException"}
_NOT_ALLOWED: Final = {
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
}


class DynamoDBError(Exception):
    """DynamoDB refused a call: `code` is the last part of its `__type`.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.status = status
        self.code = code

    @property
    def busy(self) -> bool:
        return self.code in _BUSY

    @property
    def away(self) -> bool:
        """It may do so at the next call."""
        return self.busy or self.status >= 500 or self.code == "ExpiredTokenException"

    @property
    def not_allowed(self) -> bool:
        return self.code in _NOT_ALLOWED


class Garbage(Exception):
    """An answer that is not DynamoDB's."""


class NoCredentials(Exception):
    """botocore's chain has none."""


class DynamoDB:
    """The API of one endpoint, in one region."""

    def __init__(self, pool: Pool, region: str) -> None:
        self._pool = pool
        self._signer = Signer(pool.host, region)
        self._chain = _Chain()

    async def call(self, action: str, request: dict[str, Any]) -> dict[str, Any]:
        """One call and its answer.

        Raises `DynamoDBError`, `Garbage`, `NoCredentials`, `HttpError` and `TimeoutError`.
        """
        body = orjson.dumps(request)
        answer = await self._pool.post(self._signer.headers(await self._chain.current(), action, body), body)
        try:
            decoded = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            decoded = None
        if answer.status >= 500 and (type(decoded) is not dict or "__type" not in decoded):
            raise DynamoDBError(answer.status, f"HTTP {answer.status}", "")
        if type(decoded) is not dict or (answer.status != 200 and "__type" not in decoded):
            raise Garbage(f"HTTP {answer.status} with a body that is not DynamoDB's")
        if answer.status == 200:
            return decoded
        code = str(decoded["__type"]).rpartition("#")[2]
        if code == "ExpiredTokenException":
            self._chain.forget()
        raise DynamoDBError(answer.status, code, str(decoded.get("message", decoded.get("Message", ""))))


class Signer:
    """Signature Version 4, whose key is derived once a day and not for each call, as its secret stays the same.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    def __init__(self, host: str, region: str) -> None:
        self._host = host
        self._region = region
        self._second = 0
        self._stamp = ""
        self._scope = ""
        self._secret = ""
        self._key = b""

    def headers(self, credentials: ReadOnlyCredentials, action: str, body: bytes) -> str:
        """The headers of a call, its signature among them, each with its CRLF."""
        self._tick(credentials.secret_key or "")
        token = credentials.token
        target, stamp = f"DynamoDB_20120810.{action}", self._stamp
        signed = "content-type;host;x-amz-date;x-amz-target"
        security = ""
        if token:
            signed, security = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target", f"{token}\n"
        canonical = (
            f"POST\n/\n\ncontent-type:application/x-amz-json-1.0\nhost:{self._host}\nx-amz-date:{stamp}\n"
            f"{'x-amz-security-token:' if token else ''}{security}x-amz-target:{target}\n\n"
            f"{signed}\n{hashlib.sha256(body).hexdigest()}"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        return (
            f"Content-Type: application/x-amz-json-1.0\r\nX-Amz-Date: {stamp}\r\nX-Amz-Target: {target}\r\n"
            f"{f'X-Amz-Security-Token: {token}' if token else 'Accept: */*'}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={credentials.access_key}/{self._scope}, "
            f"SignedHeaders={signed}, Signature={signature}\r\n"
        )

    def _tick(self, secret: str) -> None:
        now = int(time.time())
        if now == self._second and secret == self._secret:
            return
        utc = time.gmtime(now)
        date, self._second, self._stamp = time.strftime("%Y%m%d", utc), now, time.strftime("%Y%m%dT%H%M%SZ", utc)
        scope = f"{date}/{self._region}/dynamodb/aws4_request"
        if scope == self._scope and secret == self._secret:
            return
        self._scope, self._secret, self._key = scope, secret, f"AWS4{secret}".encode()
        for part in scope.split("/"):
            self._key = hmac.digest(self._key, part.encode(), "sha256")


class _Chain:
    """botocore's credential chain, so that profiles and SSO work. Its refreshes block, so they happen in a thread."""

    def __init__(self) -> None:
        self._credentials: Credentials | None = None

    async def current(self) -> ReadOnlyCredentials:
        credentials = self._credentials
        if credentials is None:
            self._credentials = credentials = await asyncio.to_thread(lambda: Session().get_credentials())
        if credentials is None:
            raise NoCredentials
        if getattr(credentials, "refresh_needed", bool)():
            frozen = await asyncio.to_thread(credentials.get_frozen_credentials)
        else:
            frozen = credentials.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise NoCredentials
        return frozen

    def forget(self) -> None:
        self._credentials = None
