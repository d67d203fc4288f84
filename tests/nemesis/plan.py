"""Which faults happen when: a pure function of a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final

PROCESSES: Final = ("customer-0", "customer-1", "archive", "queue", "devices")
"""Where a fault of a process, or of its connection to NATS, may happen."""
NODES: Final = ("node-0", "node-1", "node-2")
"""Where a fault of one server of a cluster may happen."""
OF_PROCESSES: Final = ("kill", "terminate", "freeze")
OF_CONNECTIONS: Final = ("cut", "reset", "stall", "slow", "flap", "one way")
OF_SERVERS: Final = ("server stop", "server kill", "server freeze", "server lame duck")
OF_NODES: Final = ("node kill", "node freeze", "node lame duck")
OF_PARTITIONS: Final = ("partition of one", "partition of all")
OF_CLUSTERS: Final = (*OF_NODES, *OF_PARTITIONS)
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
OF_CREDENTIALS: Final = ("credentials rotated", "credentials revoked")
EVERYWHERE: Final = (*OF_PROCESSES, *OF_CONNECTIONS, *OF_TABLES, *OF_STREAMS, *OF_CREDENTIALS)
KINDS: Final = {1: (*EVERYWHERE, *OF_SERVERS), 3: (*EVERYWHERE, *OF_CLUSTERS)}
"""By the number of nats-servers."""
EVERY_S: Final = (0.5, 3.0)
LASTS_S: Final = (0.1, 4.0)
OF_CLUSTERS_LAST_S: Final = (1.0, 10.0)
"""An election takes 4 to 9 seconds."""


@dataclass(frozen=True)
class Fault:
    number: int
    kind: str
    target: str
    """One of `PROCESSES`, one of `NODES`, or empty."""
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
    nodes: int = 1
    """nats-servers: one, or a cluster of three."""

    def only(self, numbers: tuple[int, ...]) -> Plan:
        """Return the plan with these faults alone."""
        return replace(self, faults=tuple(fault for fault in self.faults if fault.number in numbers))

    def as_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "nodes": self.nodes, "early": self.early, "ack_wait_s": self.ack_wait_s,
                "shutdown_s": self.shutdown_s, "faults": [str(fault) for fault in self.faults]}  # fmt: skip


def make_plan(seed: int, seconds: float = 20.0) -> Plan:
    """Return the plan of a seed: half of the kinds, one fault after another, which may overlap.

    An odd seed is a cluster's.
    """
    chance, nodes = random.Random(seed), 3 if seed % 2 else 1
    kinds = chance.sample(KINDS[nodes], len(KINDS[nodes]) // 2)
    faults: list[Fault] = []
    at_s = chance.uniform(0, EVERY_S[1])
    while at_s < seconds - 1:
        kind = chance.choice(kinds)
        lasts_s = chance.uniform(*(OF_CLUSTERS_LAST_S if kind in OF_CLUSTERS else LASTS_S))
        faults.append(Fault(len(faults), kind, _target(kind, chance), round(at_s, 2), round(lasts_s, 2)))
        at_s += chance.uniform(*EVERY_S)
    ack_wait_s = 30 if chance.random() < 0.5 else chance.randint(3, 10)
    early, shutdown_s = chance.random() < 0.25, chance.choice((2, 5, 10, 25))
    return Plan(seed, early, ack_wait_s, shutdown_s, seconds, tuple(faults), nodes)


def _target(kind: str, chance: random.Random) -> str:
    if kind in (*OF_PROCESSES, *OF_CONNECTIONS):
        return chance.choice(PROCESSES)
    return chance.choice(NODES) if kind in (*OF_NODES, "partition of one") else ""
