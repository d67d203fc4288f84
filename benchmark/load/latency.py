"""The latency histogram: microseconds, three significant digits, up to a minute."""

from __future__ import annotations

from typing import Final

from hdrh.histogram import HdrHistogram

MAX_US: Final = 60_000_000


def new_histogram() -> HdrHistogram:
    return HdrHistogram(1, MAX_US, 3)


def encoded(histogram: HdrHistogram) -> str:
    text: bytes = histogram.encode()
    return text.decode()
