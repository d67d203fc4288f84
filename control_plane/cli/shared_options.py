"""Options shared by every command: declared on the program, accepted before and after the command's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup, TyperOption


class SharedOptions(TyperGroup):
    """A group whose options may also follow the command: `control_plane create --server URL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _first(args, self._with_value()))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, with the shared options named at the end of its help."""
        command = super().get_command(ctx, cmd_name)
        if command:
            shared = ", ".join(each.opts[0] for each in self.params if isinstance(each, TyperOption))
            command.epilog = f"Options of every command (the program's --help explains them): {shared}."
        return command

    def _with_value(self) -> frozenset[str]:
        options = [each for each in self.params if isinstance(each, TyperOption) and not each.is_flag]
        return frozenset(name for option in options for name in option.opts)


def _first(args: Sequence[str], shared: frozenset[str]) -> list[str]:
    """Move the shared options with their values to the front; leave what follows `--` unchanged."""
    end = args.index("--") if "--" in args else len(args)
    ours: list[str] = []
    others: list[str] = []
    number = 0
    while number < end:
        length = 2 if args[number] in shared else 1
        mine = args[number].partition("=")[0] in shared
        (ours if mine else others).extend(args[number : min(number + length, end)])
        number += length
    return [*ours, *others, *args[end:]]
