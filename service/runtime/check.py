"""`python -m service [ROLE] --check`: check a role's needs one by one. It takes no work and writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from service.runtime.errors import ServiceError
from service.runtime.role import Role, Skipped

Finding = tuple[str, str]
"""Verdict (`ok`, `note` or `missing`), and what it is about."""


async def check(role: Role) -> AsyncIterator[Finding]:
    """Yield a finding per need, in the order in which the role would open them. Close the role at the end."""
    try:
        for need in role.needs():
            try:
                remark = await need.look()
            except ServiceError as error:
                yield "missing", str(error)
            except Skipped as skipped:
                if str(skipped):
                    yield "note", f"{need.name}: {skipped}"
            else:
                yield "ok", f"{need.name}, {remark}" if remark else need.name
    finally:
        await role.close()
