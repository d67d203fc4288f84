"""A plan: what a run would do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from control_plane.resources import Account
from control_plane.settings import Difference

Action = Literal["keep", "create", "change"]
Do = Callable[[str], Awaitable[None]]
"""Carry out a step; the argument is the account's id."""


@dataclass(frozen=True)
class Step:
    resource: str
    action: Action
    do: Do
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every resource in order of creation, with the action for each."""

    name: str
    account: str | None
    wanted: Account
    """The account's desired state, if it is created."""
    steps: Sequence[Step]
    remarks: tuple[str, ...] = ()

    @property
    def changes(self) -> Sequence[Step]:
        return [step for step in self.steps if step.action != "keep"]


async def nothing(_: str) -> None:
    """Do nothing: for steps that need no work."""
