"""The commands in the project's pages, and what they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.process import ROOT

CONSOLE: Final = "console"
SHELL: Final = "sh"
RUN: Final = "run"
"""A word after a block's language: `make docs-check` runs it."""
_FENCE: Final = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```\s*$", re.MULTILINE | re.DOTALL)
_INDENTED: Final = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}[^\n]*\n|\n(?= {4}))+)")
_COMMAND: Final = re.compile(r"(\$ |(make|nats|curl|docker|kubectl|aws|mkdir|\.venv/bin/\S+|call\(\)) ?)")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_SEPARATORS: Final = {"&&", "||", "|", ";", "&", "do", "then", "{"}
_LEFT_OUT: Final = {"node_modules", ".venv", ".local", ".bench", ".mutants", "cdk.out"}


@dataclass(frozen=True)
class Step:
    """A command of a console block, and the output that the page shows."""

    command: str
    output: str


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    words: tuple[str, ...]
    """The language, and what follows it."""
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_commands(self) -> bool:
        return bool(self.words) and self.words[0] in {SHELL, CONSOLE}

    @property
    def steps(self) -> list[Step]:
        """Return the commands of a console block (`$ `, continued by `> `), each with its output."""
        steps: list[Step] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:], ""))
            elif line.startswith("> ") and steps:
                steps[-1] = Step(f"{steps[-1].command}\n{line[2:]}", "")
            elif steps:
                steps[-1] = Step(steps[-1].command, f"{steps[-1].output}{line}\n")
        return steps

    @property
    def script(self) -> str:
        """Return what a shell would be given."""
        return "\n".join(step.command for step in self.steps) if self.words[0] == CONSOLE else self.text

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each simple command."""
        yield from simple_commands(self.script)


def pages() -> list[Path]:
    """Return every page but the changelog, which names what was."""
    found = [path for path in ROOT.rglob("*.md") if not _LEFT_OUT & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in found if path.name != "CHANGELOG.md")


def blocks(page: Path) -> list[Block]:
    """Return the blocks between fences, and the indented ones that begin with a command."""
    text = page.read_text()
    fenced = [
        Block(page, text.count("\n", 0, found.start()) + 1, tuple(found[2].split()), _dedented(found[3], found[1]))
        for found in _FENCE.finditer(text)
    ]
    blank = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    indented = [
        Block(page, text.count("\n", 0, found.start()) + 1, (SHELL,), dedented)
        for found in _INDENTED.finditer(blank)
        if _COMMAND.match(dedented := _dedented(found[1], "    "))
    ]
    return [*fenced, *indented]


def prose(page: Path) -> str:
    """Return a page's text without its blocks."""
    return _FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """Return what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def simple_commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script: cut at pipes and lists, comments and redirections left out."""
    for line in _logical_lines(script):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>(){}")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word in _SEPARATORS or set(word) <= set(";&|(){}<>"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


def assignments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command into the variables that it sets before it begins, and the rest."""
    count = 0
    rest = list(words)
    if rest and rest[0] in {"env", "export"}:
        rest = rest[1:]
    while count < len(rest) and _ASSIGNMENT.match(rest[count]):
        count += 1
    return [word.partition("=")[0] for word in rest[:count]], rest[count:]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.*?)\s*$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _logical_lines(script: str) -> list[str]:
    """Return a script's lines, with continued ones and those of an open quotation joined."""
    joined = script.replace("\\\n", " ")
    lines: list[str] = []
    open_line = ""
    for line in joined.splitlines():
        open_line = f"{open_line}\n{line}" if open_line else line
        try:
            shlex.split(open_line, comments=True)
        except ValueError:
            continue
        lines.append(open_line)
        open_line = ""
    assert not open_line, f"a quotation is not closed: {open_line}"
    return lines


def _dedented(text: str, indent: str) -> str:
    return re.sub(rf"(?m)^{indent}", "", text) if indent else text
