"""What a run would do: every resource, and the action for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from control_plane.desired import Limits
from control_plane.settings import Difference

Action = Literal["keep", "create", "change"]
Do = Callable[[str], Awaitable[None]]
"""Given the account's id."""


@dataclass(frozen=True)
class Step:
    resource: str
    action: Action
    do: Do
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every resource, in the order in which they are made, and the action for each."""

    name: str
    account: str | None
    limits: Limits
    """Of the account, when it is made."""
    steps: Sequence[Step]
    remarks: tuple[str, ...] = ()

    @property
    def changes(self) -> Sequence[Step]:
        return [step for step in self.steps if step.action != "keep"]


async def nothing(_: str) -> None:
    """What is to be done where there is nothing to do."""
