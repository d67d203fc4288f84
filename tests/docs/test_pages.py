"""No page names a command, an option, a file, a variable or another page that does not exist."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from local.process import ROOT
from service.__main__ import ROLES
from tests.support.pages import CONSOLE, RUN, Block, anchors, assignments, blocks, inline, pages, prose, simple_commands

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = frozenset(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
MAKE_VARIABLES = frozenset(re.findall(r"\$[({]([A-Z_]+)\b", MAKEFILE))
MADE_LATER = (".local/", "cdk/config", "cdk/cdk.out", "cdk/node_modules", ".bench")
"""Paths that commands make."""
PLANNED = ("endpoints/name.py", "test_name.py", "service/printer/")
"""Files that a person makes who follows a recipe."""
INSTALLED_BY_UP = frozenset({"local", "control_plane", "service", "benchmark", "operations", "examples"})
"""requirements/local.txt has what they import: tests/local/test_setup.py."""
OTHERS_MODULES = frozenset({"pip", "venv", "pytest", "grpc_tools.protoc"})
OTHERS_VARIABLES = frozenset(
    {"PATH", "PWD", "TOKEN", "USER_PUBLIC_KEY", "LOG_GROUP", "FILE", "IMAGE", "GOGC", "GOMAXPROCS"}
)
"""Of other programs, and placeholders."""
PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
ADRS = ROOT / "docs" / "adr"


def command_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.is_commands]


def of_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a page, in blocks and between backticks, with its place."""
    for block in command_blocks(page):
        for words in block.commands():
            yield block.where, words
    for text in inline(page):
        if re.match(r"(make|python -m|\.venv/bin/python|env|pkill|kill) ", text):
            for words in simple_commands(text):
                yield f"{page.relative_to(ROOT)}: `{text}`", words


@pytest.mark.parametrize("page", PAGES)
def test_what_make_up_does_not_install_is_run_after_the_set_up_that_does(page: Path) -> None:
    for where, words in of_commands(page):
        _, rest = assignments(words)
        if rest[:2] == [".venv/bin/python", "-m"] and rest[2].partition(".")[0] not in INSTALLED_BY_UP:
            assert re.search(r"make (setup|test|lint)\b|-m venv", page.read_text()), (
                f"{where}: say `make setup` before {rest[2]}"
            )


@functools.cache
def words_of_the_code() -> frozenset[str]:
    """Return each word in capitals of the files that are no pages."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kinds = {".py", ".toml", ".yaml", ".yml", ".sh", ".go", ".mjs", ".json", "", ".proto", ".conf"}
    texts = (
        path.read_text(errors="ignore")
        for name in listed
        if (path := ROOT / name).suffix in kinds and path.is_file() and not path.is_relative_to(ROOT / "tests")
    )
    found = {word for text in texts for word in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\b", text)}
    fields = {
        name.upper()
        for role in ROLES.values()
        for name in getattr(
            importlib.import_module(role.partition(":")[0]), role.partition(":")[2]
        ).SETTINGS.model_fields
    }
    return frozenset(found | fields)


@functools.cache
def command_of(module: str) -> Any:
    """Return a program's command line, if typer has made it."""
    imported = importlib.import_module(f"{module}.__main__" if _is_package(module) else module)
    cli = getattr(imported, "cli", None)
    return get_command(cli) if isinstance(cli, typer.Typer) else None


def _is_package(module: str) -> bool:
    found = importlib.util.find_spec(module)
    assert found, f"no module {module}"
    return found.submodule_search_locations is not None


def check_options(module: str, arguments: Sequence[str]) -> None:
    """Every option and subcommand that is named is there."""
    if module in OTHERS_MODULES:
        return
    command = command_of(module)
    if command is None:
        found = importlib.util.find_spec(f"{module}.__main__" if _is_package(module) else module)
        assert found
        assert found.origin
        source = Path(found.origin).read_text() + '"-h" "--help"'
        for option in (each.partition("=")[0] for each in arguments if each.startswith("-")):
            assert f'"{option}"' in source, f"python -m {module} has no {option}"
        return
    known = _options(command)
    for word in arguments:
        commands = getattr(command, "commands", {})
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"python -m {module} has no {word}"
        elif (
            commands
            and not known.intersection(arguments[: arguments.index(word)][-1:])
            and re.fullmatch("[a-z-]+", word)
        ):
            assert word in commands, f"python -m {module} has no command {word}"
            command = commands[word]
            known |= _options(command)


def _options(command: Any) -> set[str]:
    return {"--help"} | {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def recipe_of(target: str) -> tuple[str, list[str]] | None:
    """Return the program that a target starts with `ARGS`, and its first arguments."""
    (recipe,) = re.findall(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)*)", MAKEFILE, re.MULTILINE)
    found = re.search(r"-m ([\w.]+)((?: [a-z-]+)*)[^\n]*\$\(ARGS\)", recipe.replace("$(CP)", "-m control_plane"))
    return (found[1], found[2].split()) if found else None


def check_make(words: Sequence[str]) -> None:
    targets = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
    for target in targets:
        assert target in TARGETS, f"no make target {target}"
    for word in words:
        name, is_set, value = word.partition("=")
        if is_set:
            assert name in MAKE_VARIABLES, f"the Makefile has no variable {name}"
        if name == "ARGS" and targets and (program := recipe_of(targets[0])):
            check_options(program[0], [*program[1], *value.split()])


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_exist(page: Path) -> None:
    for where, words in of_commands(page):
        try:
            check(words)
        except AssertionError as error:
            pytest.fail(f"{where}: {error}")


WRONG = (
    "make fly",
    "make up TASK=3",
    'make up ARGS="--nats-prot 0"',
    ".venv/bin/python -m local up --fast",
    ".venv/bin/python -m local ups",
    ".venv/bin/python -m nothing",
    ".venv/bin/python -m operations.history --limits 3",
    "NATS_CREDENTIAL=x .venv/bin/python -m service",
    "cat docs/nothing.md",
    "true && make fly",
)


@pytest.mark.parametrize("command", WRONG)
def test_what_does_not_exist_is_seen(command: str) -> None:
    with pytest.raises(AssertionError):
        list(map(check, simple_commands(command)))


def check(words: Sequence[str]) -> None:
    variables, rest = assignments(words)
    for name in variables:
        assert name in words_of_the_code() | OTHERS_VARIABLES or name.islower(), f"no code reads {name}"
    if not rest:
        return
    program = rest[0]
    if program == "make":
        check_make(rest[1:])
    if re.search(r"(^|/)python3?$", program) and rest[1:2] == ["-m"]:
        check_options(rest[2], rest[3:])
    for word in rest:
        check_path(word)


def check_path(word: str) -> None:
    path = word.removeprefix("$PWD/").removeprefix("./").partition(":")[0].strip("'\"")
    if any(each in path for each in PLANNED):
        return
    first, slash, _ = path.partition("/")
    if (
        slash
        and first
        and (ROOT / first).is_dir()
        and first != ".venv"
        and not path.startswith(MADE_LATER)
        and "ROOM" not in path
    ):
        assert (ROOT / path).exists(), f"no file {path}"


@pytest.mark.parametrize("page", PAGES)
def test_the_files_and_variables_in_its_text_exist(page: Path) -> None:
    for text in inline(page):
        if re.fullmatch(r"[\w./-]+/[\w./-]*", text):
            check_path(text)
        if not page.is_relative_to(ADRS) and re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", text):
            assert text in words_of_the_code() | OTHERS_VARIABLES, f"no code has {text}"


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"no {path}"
        if anchor:
            assert anchor in anchors(there), f"{path} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_are_in_blocks_that_say_so(page: Path) -> None:
    """A block without a language is not looked at."""
    for block in blocks(page):
        if not block.is_commands:
            assert not re.search(r"(?m)^(\$ |make |nats |curl |\.venv/bin)", block.text), block.where


def test_what_is_run_shows_its_output() -> None:
    run = [block for page in pages() for block in blocks(page) if RUN in block.words]
    assert {block.words[0] for block in run} == {CONSOLE}
    assert len(run) >= 5
    for block in run:
        assert block.steps, block.where


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text() + (ROOT / "docs" / "adr" / "README.md").read_text()
    for page in pages():
        if page.is_relative_to(ROOT / "docs") and page.name != "README.md":
            assert f"({page.name})" in index, page.name
