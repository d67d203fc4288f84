"""Find the NATS system at Synadia, and its limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from control_plane.errors import ProvisioningError, UsageError
from control_plane.synadia.api import Answer, Api

ROOT: Final = "/core/beta"


@dataclass(frozen=True)
class System:
    """A NATS system of a team."""

    id: str
    name: str
    jetstream: bool
    tiers: tuple[str, ...]
    nodes: int | None

    @property
    def replicas(self) -> int:
        """Replicas of its largest tier; without tiers, as many as its nodes allow.

        Raises `ProvisioningError` if it has no JetStream.
        """
        if not self.jetstream:
            raise ProvisioningError(f"system {self.name} has no JetStream, which the stream and the bucket need")
        if self.tier:
            return int(self.tier.removeprefix("R"))
        return max(1, min(5, self.nodes)) if self.nodes else 3

    @property
    def tier(self) -> str | None:
        """The tier with the most replicas; None if no tier is named after its replicas."""
        named = [tier for tier in self.tiers if re.fullmatch(r"R[1-5]", tier)]
        return max(named, default=None)


async def find_system(api: Api, wanted: str | None) -> System:
    """Return the system with that id or name; without `wanted`, the only system.

    Raises `UsageError` that lists the systems to choose from.
    """
    if wanted:
        system = await api.find(f"{ROOT}/systems/{quote(wanted, safe='')}")
        if system is not None:
            return _system(system)
    teams = await api.items(f"{ROOT}/teams")
    systems = [system for team in teams for system in await api.items(f"{ROOT}/teams/{team['id']}/systems")]
    chosen = [system for system in systems if wanted in {None, system["id"], system["name"]}]
    if len(chosen) != 1:
        there = ", ".join(f"{system['name']} ({system['id']})" for system in systems) or "none"
        problem = f"there is no system {wanted}" if wanted and not chosen else "cannot tell which system you mean"
        raise UsageError(f"{problem}; give --system one of: {there}")
    return _system(chosen[0])


def _system(view: Answer) -> System:
    tiers = tuple(view.get("jetstream_tiers") or ())
    return System(view["id"], view["name"], view["jetstream_enabled"], tiers, view.get("max_nodes"))
