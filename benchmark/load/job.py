"""The messages to and from a generator process: one JSON line each, over its pipes."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

TICK_S: Final = 0.25
ENDLESS: Final = 1 << 40
"""More requests than a closed loop with a duration can send."""


class NatsTarget(BaseModel):
    """A NATS server and the user to connect as. Secrets go through a pipe, never in an argument."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["nats"] = "nats"
    servers: list[str]
    creds: Annotated[str | None, Field(repr=False)] = None
    """The text of a `.creds` file."""
    nkey_seed: Annotated[str | None, Field(repr=False)] = None
    user: str | None = None
    password: Annotated[str | None, Field(repr=False)] = None
    token: Annotated[str | None, Field(repr=False)] = None
    inbox_prefix: str = "_INBOX"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class GatewayTarget(BaseModel):
    """An HTTP gateway and its token."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["gateway"] = "gateway"
    url: str
    token: Annotated[str, Field(repr=False)]


Target = Annotated[NatsTarget | GatewayTarget, Field(discriminator="kind")]


class Closed(BaseModel):
    """`requests` requests with at most `concurrency` in flight; ends after `duration_s` seconds, if given."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["closed"] = "closed"
    requests: int
    concurrency: int
    duration_s: float | None = None


class Open(BaseModel):
    """`rate` requests/s for `duration_s` seconds, however slow the replies; `poisson`: at random times."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["open"] = "open"
    rate: float
    duration_s: float
    poisson: bool = False


Loop = Annotated[Closed | Open, Field(discriminator="kind")]


Frames = Literal["plain", "traceparent", "odd"]
"""Requests for balances: plain, each with a `traceparent`, or one in a hundred odd."""


class Job(BaseModel):
    """The work of one generator process."""

    model_config = ConfigDict(frozen=True)

    target: Target
    mix: dict[str, float] = {"balance": 1}
    """Endpoint name -> weight."""
    loop: Loop
    timeout_s: float
    ids: int
    """Client ids are "1" up to this number."""
    zipf: float | None = None
    """Exponent of the Zipf distribution; None: ids in turn."""
    seed: int = 0
    first: int = 0
    stride: int = 1
    """This process sends the requests `first`, `first + stride`, ... of the whole load."""
    nonce: str = "load"
    """Prefix for the ids of clients that this load creates."""
    expected: dict[str, int] | None = None
    """Client id -> correct balance; None: do not check."""
    frames: Frames | None = None
    """Set: run by `benchmark.load.raw_generator`; None: by `benchmark.load.generator`."""


class Start(BaseModel):
    """When to begin, in seconds of this machine's monotonic clock; sent once every generator is connected."""

    at: float


class Change(Start):
    """From `at` on, use another open loop, mix and share of the whole load."""

    loop: Open
    mix: dict[str, float]
    first: int
    stride: int


class Done(BaseModel):
    """Results from one endpoint."""

    replies: int = 0
    """Correct replies."""
    errors: dict[str, int] = {}
    histogram: str = ""
    """HdrHistogram's encoding, in microseconds; a timeout counts with the time it took."""


class Tick(BaseModel):
    """Results of a generator since its last tick."""

    at: float
    """Monotonic clock, seconds."""
    sent: int = 0
    done: dict[str, Done] = {}
    """Endpoint name -> results."""
    in_flight: int = 0
    late: int = 0
    """Requests of an open loop sent more than `LATE_S` after they were due."""
    cpu_share: float = 0.0
    """CPU use, as a share of one core."""
    last_active: float = 0.0
    """When a request was last sent or a reply last received, on the monotonic clock."""
    last_done: float = 0.0
    """When a request last ended, with a reply or a timeout, on the monotonic clock."""
    final: bool = False
    problem: str | None = None
    """Why this generator failed."""
