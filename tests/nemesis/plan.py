"""Which faults happen when: a pure function of a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final

PROCESSES: Final = ("customer-0", "customer-1", "archive", "queue")
"""Where a fault of a process, or of its connection to NATS, may happen."""
OF_PROCESSES: Final = ("kill", "terminate", "freeze")
OF_CONNECTIONS: Final = ("cut", "reset", "stall", "slow", "flap", "one way")
OF_SERVERS: Final = ("server stop", "server kill", "server freeze", "server lame duck")
OF_TABLES: Final = (
    "table throttled",
    "table 500",
    "table 500 after write",
    "table half",
    "table slow",
    "table silent",
    "table refused",
)
OF_STREAMS: Final = ("stream full", "consumer edited")
KINDS: Final = (*OF_PROCESSES, *OF_CONNECTIONS, *OF_SERVERS, *OF_TABLES, *OF_STREAMS)
EVERY_S: Final = (0.5, 3.0)
LASTS_S: Final = (0.1, 4.0)


@dataclass(frozen=True)
class Fault:
    number: int
    kind: str
    target: str
    """One of `PROCESSES`, or empty."""
    at_s: float
    """When it begins: seconds after the start."""
    lasts_s: float

    def __str__(self) -> str:
        where = f" of {self.target}" if self.target else ""
        return f"{self.number}: {self.kind}{where} at {self.at_s:.1f} s for {self.lasts_s:.1f} s"


@dataclass(frozen=True)
class Plan:
    seed: int
    early: bool
    """Faults begin before the table is seeded."""
    ack_wait_s: int
    shutdown_s: int
    seconds: float
    faults: tuple[Fault, ...]

    def only(self, numbers: tuple[int, ...]) -> Plan:
        """Return the plan with these faults alone."""
        return replace(self, faults=tuple(fault for fault in self.faults if fault.number in numbers))

    def as_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "early": self.early, "ack_wait_s": self.ack_wait_s, "shutdown_s": self.shutdown_s,
                "faults": [str(fault) for fault in self.faults]}  # fmt: skip


def make_plan(seed: int, seconds: float = 20.0) -> Plan:
    """Return the plan of a seed: half of the kinds, one fault after another, which may overlap."""
    chance = random.Random(seed)
    kinds = chance.sample(KINDS, len(KINDS) // 2)
    faults: list[Fault] = []
    at_s = chance.uniform(0, EVERY_S[1])
    while at_s < seconds - 1:
        kind = chance.choice(kinds)
        target = chance.choice(PROCESSES) if kind in (*OF_PROCESSES, *OF_CONNECTIONS) else ""
        faults.append(Fault(len(faults), kind, target, round(at_s, 2), round(chance.uniform(*LASTS_S), 2)))
        at_s += chance.uniform(*EVERY_S)
    ack_wait_s = 30 if chance.random() < 0.5 else chance.randint(3, 10)
    return Plan(seed, chance.random() < 0.25, ack_wait_s, chance.choice((2, 5, 10, 25)), seconds, tuple(faults))
