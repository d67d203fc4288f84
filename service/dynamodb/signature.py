"""The signature of a call to DynamoDB."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import quote

from botocore.credentials import ReadOnlyCredentials
from botocore.utils import normalize_url_path


class Signer:
    """Signature Version 4, with its key derived once a day instead of once a call.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    def __init__(self, host: str, region: str, path: str = "/") -> None:
        self._host = host
        # Encoded again, as every service but S3 has it.
        self._path = quote(normalize_url_path(path), safe="/~")
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
        # Method, path, query; headers in alphabetical order; their names; the body's hash.
        canonical = (
            f"POST\n{self._path}\n\ncontent-type:application/x-amz-json-1.0\nhost:{self._host}\nx-amz-date:{stamp}\n"
            f"{'x-amz-security-token:' if token else ''}{security}x-amz-target:{target}\n\n"
            f"{signed}\n{hashlib.sha256(body).hexdigest()}"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        # Algorithm, time, scope, hash of the canonical request.
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
        # The key is the secret, signed with each part of the scope in turn.
        self._scope, self._secret, self._key = scope, secret, f"AWS4{secret}".encode()
        for part in scope.split("/"):
            self._key = hmac.digest(self._key, part.encode(), "sha256")
