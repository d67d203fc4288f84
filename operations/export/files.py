"""The files of a point-in-time export to S3, in their bucket or copied to a folder.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from operations import s3
from service.dynamodb.table import Row
from service.runtime.errors import ServiceError

SUMMARY: Final = "manifest-summary.json"
FILES: Final = "manifest-files.json"
ROWS: Final = 1000
"""Rows that are yielded at a time."""
_GZIP: Final = 31
"""https://docs.python.org/3/library/zlib.html#zlib.decompressobj"""
_LIST_MAX: Final = 64 * 1024 * 1024


class Export:
    """A full export in DynamoDB JSON. Each method raises `ServiceError` when a file cannot be read."""

    def __init__(self, where: str) -> None:
        """Read the manifests. `where`: the folder or s3:// prefix that contains them."""
        self._where = where.rstrip("/")
        self._s3 = s3.client() if where.startswith("s3://") else None
        summary = self._object(SUMMARY, self._whole(f"{self._where}/{SUMMARY}"))
        if (form := summary.get("outputFormat")) != "DYNAMODB_JSON":
            raise ServiceError(f"{where} is an export in {form}", "export the table again, in DYNAMODB_JSON")
        if (kind := summary.get("exportType", "FULL_EXPORT")) != "FULL_EXPORT":
            raise ServiceError(f"{where} is an export of the type {kind}", "make a full export")
        self._bucket = summary.get("s3Bucket", "")
        lines = self._whole(f"{self._where}/{FILES}").splitlines()
        self._files = [self._object(FILES, line) for line in lines if line.strip()]
        self.items = sum(int(file["itemCount"]) for file in self._files)

    def rows(self) -> Iterator[list[Row]]:
        """Yield all rows in batches. Each file must have as many as its manifest says."""
        for file in self._files:
            url, count = self._url(str(file["dataFileS3Key"])), 0
            for rows in self._rows(url):
                count += len(rows)
                yield rows
            if count != int(file["itemCount"]):
                raise ServiceError(
                    f"{url} has {count:,} rows, and the manifest says {file['itemCount']:,}", "copy it again"
                )

    def _rows(self, url: str) -> Iterator[list[Row]]:
        unzip, rest, is_empty = zlib.decompressobj(_GZIP), b"", True
        rows = list[Row]()
        try:
            for block in self._blocks(url):
                is_empty = False
                lines = (rest + unzip.decompress(block)).split(b"\n")
                rest = lines.pop()
                rows += [orjson.loads(line)["Item"] for line in lines if line]
                if len(rows) >= ROWS:
                    yield rows
                    rows = []
            rest += unzip.flush()
            if unzip.eof:
                rows += [orjson.loads(line)["Item"] for line in rest.split(b"\n") if line]
        except (zlib.error, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ServiceError(f"{url} is no file of an export ({error})", "copy it again") from None
        if not (unzip.eof or is_empty):  # a partition without rows has a file too
            raise ServiceError(f"{url} is cut off", "copy it again")
        yield rows

    def _url(self, key: str) -> str:
        """Return a data file's location: in its bucket, or in the folder `data` beside the manifests."""
        return f"s3://{self._bucket}/{key}" if self._s3 else f"{self._where}/data/{key.rpartition('/')[2]}"

    def _blocks(self, url: str) -> Iterator[bytes]:
        if self._s3:
            yield from s3.S3Object(url, self._s3).blocks()
            return
        try:
            with Path(url).open("rb") as file:
                while block := file.read(s3.BLOCK):
                    yield block
        except OSError as error:
            raise ServiceError(
                f"{url} cannot be read ({error.strerror})", "give the folder with its manifests"
            ) from None

    def _whole(self, url: str) -> bytes:
        found = b""
        for block in self._blocks(url):
            found += block
            if len(found) > _LIST_MAX:
                raise ServiceError(f"{url} is too large for a manifest", "give the folder of an export")
        return found

    def _object(self, name: str, text: bytes) -> dict[str, Any]:
        try:
            found = orjson.loads(text)
            if name == FILES:
                int(found["itemCount"]), str(found["dataFileS3Key"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            found = None
        if type(found) is not dict:
            raise ServiceError(f"{self._where}/{name} is not a manifest", "give the folder or prefix of an export")
        return found
