"""Objects in S3, read in blocks; an interrupted read resumes where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from service.runtime.aws import aws_session
from service.runtime.errors import ServiceError

BLOCK: Final = 64 * 1024
TRIES: Final = 6
"""Failures in a row, without a byte read, that end a read; the last wait is 8 seconds."""
REMEDY: Final = "see its name, AWS_REGION, and that your AWS credentials may read it"


def client() -> Any:
    """Return boto3's client. Raises `ServiceError` if the AWS configuration is incomplete."""
    try:
        return boto3.Session(botocore_session=aws_session()).client("s3")
    except (BotoCoreError, ValueError) as error:
        raise ServiceError(f"AWS configuration: {error}", "correct AWS_REGION or AWS_PROFILE") from None


def parts_of(url: str) -> tuple[str, str]:
    """Return bucket and key. Raises `ServiceError` for a URL without a bucket."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise ServiceError(f"{url} names no bucket", "write s3://BUCKET/KEY")
    return bucket, key


class S3Object:
    """One version of an object: if the object is replaced, reading fails."""

    def __init__(self, url: str, s3: Any = None) -> None:
        """Inspect the object. Raises `ServiceError` if it does not exist, or may not be read."""
        self._url = url
        self._s3 = s3 or client()
        self._bucket, self._key = parts_of(url)
        try:
            head = self._s3.head_object(Bucket=self._bucket, Key=self._key)
        except (BotoCoreError, ClientError) as error:
            raise ServiceError(f"{url} cannot be read ({error})", REMEDY) from None
        self._etag = head["ETag"]
        self.size = int(head["ContentLength"])

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `offset` on. Raises `ServiceError` if it cannot be read, or was replaced."""
        failures = 0
        while offset < self.size:
            try:
                answer = self._s3.get_object(
                    Bucket=self._bucket, Key=self._key, Range=f"bytes={offset}-", IfMatch=self._etag
                )
                for block in answer["Body"].iter_chunks(BLOCK):
                    failures = 0
                    offset += len(block)
                    yield block
            except ClientError as error:
                if error.response["Error"]["Code"] in {"PreconditionFailed", "412"}:
                    raise ServiceError(f"{self._url} was replaced while it was read", "run it again") from None
                raise ServiceError(f"{self._url} cannot be read ({error})", REMEDY) from None
            except (BotoCoreError, HTTPClientError) as error:
                failures += 1
                if failures == TRIES:
                    raise ServiceError(f"{self._url} cannot be read ({error})", "see the network") from None
                time.sleep(0.25 * 2**failures)
