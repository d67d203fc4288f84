"""Choose the client ids to request."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate, count

from benchmark.load.job import Job

_DRAWN_AT_ONCE = 10_000


def client_ids(job: Job) -> Iterator[str]:
    """Yield ids endlessly: in turn, or drawn from a Zipf distribution (id k has weight 1/k**zipf)."""
    names = [str(number) for number in range(1, job.ids + 1)]
    if job.zipf is None:
        for number in count(job.first, job.stride):
            yield names[number % job.ids]
    draw = random.Random(job.seed + job.first)
    weights = list(accumulate(number ** -(job.zipf or 0.0) for number in range(1, job.ids + 1)))
    while True:
        yield from draw.choices(names, cum_weights=weights, k=_DRAWN_AT_ONCE)
