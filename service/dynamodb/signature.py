"""Sign calls to DynamoDB."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import quote

from botocore.credentials import ReadOnlyCredentials
from botocore.utils import normalize_url_path


class Signer:
    """Signature Version 4. Everything independent of the body is computed once a second, not once a call.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """

    def __init__(self, host: str, region: str, path: str = "/") -> None:
        self._host = host
        # Encode the path twice, as SigV4 demands of every service but S3.
        self._path = quote(normalize_url_path(path), safe="/~")
        self._region = region
        self._credentials: ReadOnlyCredentials | None = None
        self._second = 0
        self._stamp = ""
        self._scope = ""
        self._key: hmac.HMAC
        self._parts: dict[str, tuple[bytes, str]] = {}
        """Action -> canonical request up to the body's hash, and headers up to the signature."""

    def headers(self, credentials: ReadOnlyCredentials, action: str, body: bytes) -> str:
        """Return the headers of a call with its signature; each line ends with CRLF."""
        now = int(time.time())
        if now != self._second or credentials is not self._credentials:
            self._start_second(now, credentials)
        canonical, lines = self._parts.get(action) or self._prepare(credentials, action)
        digest = hashlib.sha256(canonical + hashlib.sha256(body).hexdigest().encode()).hexdigest()
        # Algorithm, time, scope, hash of the canonical request.
        signing = self._key.copy()
        signing.update(f"AWS4-HMAC-SHA256\n{self._stamp}\n{self._scope}\n{digest}".encode())
        return f"{lines}{signing.hexdigest()}\r\n"

    def _prepare(self, credentials: ReadOnlyCredentials, action: str) -> tuple[bytes, str]:
        token = credentials.token
        target, stamp = f"DynamoDB_20120810.{action}", self._stamp
        signed = "content-type;host;x-amz-date;x-amz-target"
        security = ""
        if token:
            signed, security = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target", f"{token}\n"
        # Method, path, query; headers in alphabetical order; their names; the body's hash.
        canonical = (
            f"POST\n{self._path}\n\ncontent-type:application/x-amz-json-1.0\nhost:{self._host}\nx-amz-date:{stamp}\n"
            f"{'x-amz-security-token:' if token else ''}{security}x-amz-target:{target}\n\n{signed}\n"
        )
        lines = (
            f"Content-Type: application/x-amz-json-1.0\r\nX-Amz-Date: {stamp}\r\nX-Amz-Target: {target}\r\n"
            f"{f'X-Amz-Security-Token: {token}' if token else 'Accept: */*'}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={credentials.access_key}/{self._scope}, "
            f"SignedHeaders={signed}, Signature="
        )
        parts = self._parts[action] = canonical.encode(), lines
        return parts

    def _start_second(self, now: int, credentials: ReadOnlyCredentials) -> None:
        self._second, self._credentials, self._parts = now, credentials, {}
        self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        self._scope = f"{self._stamp[:8]}/{self._region}/dynamodb/aws4_request"
        # The key is the secret, signed with each part of the scope in turn.
        key = f"AWS4{credentials.secret_key}".encode()
        for part in self._scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = hmac.new(key, digestmod="sha256")
