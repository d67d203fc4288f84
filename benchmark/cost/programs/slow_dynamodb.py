"""A DynamoDB that takes a fixed time per call and accepts every row.

`python -m benchmark.cost.programs.slow_dynamodb PORT MS PARTITION-KEY SORT-KEY`. A real engine would be the bottleneck;
this one costs next to nothing. It supports only the calls that are measured, and stores nothing; every client has 100
points.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

import httptools
import orjson
import uvloop

from service.contracts import customer as contract


def _table(partition_key: str, sort_key: str) -> object:
    keys = {partition_key: "HASH", sort_key: "RANGE"}
    return {
        "Table": {
            "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in keys],
            "KeySchema": [{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
        }
    }


def _response(body: object) -> bytes:
    encoded = orjson.dumps(body)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n%b" % (
        len(encoded),
        encoded,
    )


_NOTHING: Final = _response({"Items": [], "Count": 0, "ScannedCount": 0})
_BALANCES: Final = "balances"
_ANSWERS: Final = {
    b"BatchWriteItem": _response({"UnprocessedItems": {}}),
    b"TransactWriteItems": _response({}),
    b"PutItem": _response({}),
    b"Query": _NOTHING,
    b"Scan": _NOTHING,
}


def _read(request: bytes) -> bytes:
    """Return the balances that a BatchGetItem asks for, and no other rows."""
    asked = orjson.loads(request)["RequestItems"].get(_BALANCES, {"Keys": []})
    rows = [{**key, contract.BALANCE_ATTRIBUTE: {"N": "100"}} for key in asked["Keys"]]
    return _response({"Responses": {_BALANCES: rows}, "UnprocessedKeys": {}})


class _Connection(asyncio.Protocol):
    """Answers requests one after another, which is how a DynamoDB client sends them."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._action = b""
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-amz-target":
            self._action = value.rpartition(b".")[2]

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        answer = _ANSWERS[self._action] if self._action in _ANSWERS else _read(bytes(self._body))
        self._body.clear()
        asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)


async def serve(port: int, delay_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(delay_s), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    _ANSWERS[b"DescribeTable"] = _response(_table(*sys.argv[3:5]))
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
