"""What `make docs-check` counts as the same output, and that it sees a command that prints another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.process import ROOT
from tests import docs_check
from tests.support.pages import Block

SAME = (
    ('{"balance":7120}', '{"balance":88}'),
    ("12,000 events in 1.5 s", "3 events in 20 s"),
    ('{"at":"2026-11-30T10:49:02.966Z"}', '{"at":"2027-01-01T00:00:00Z"}'),
    ("first\n...\nlast", "first\nlast"),
    ("first\n...\nlast", "first\none\ntwo\nlast"),
    ("...", ""),
    ("a   b\n\n", "a b"),
)
DIFFERENT = (
    ('{"balance":7120}', '{"error":"no such client"}'),
    ("first\n...\nlast", "first\nmiddle"),
    ("first", "first\nsecond"),
    ("first", ""),
)


@pytest.mark.parametrize(("shown", "actual"), SAME)
def test_numbers_times_and_spaces_may_differ(shown: str, actual: str) -> None:
    assert docs_check.is_as_shown(shown, actual)


@pytest.mark.parametrize(("shown", "actual"), DIFFERENT)
def test_everything_else_may_not(shown: str, actual: str) -> None:
    assert not docs_check.is_as_shown(shown, actual)


def block(text: str) -> Block:
    return Block(ROOT / "README.md", 1, ("console", "run"), text)


def test_the_commands_of_a_page_share_a_shell(tmp_path: Path) -> None:
    page = [block("$ say() { echo 'it is' \"$1\"; }\n$ say 7\nit is 8\n"), block("$ say 5\nit is 5\n$ pwd\n/else\n")]
    verdicts = list(docs_check.run(tmp_path, page))
    assert [bool(verdict.problem) for verdict in verdicts] == [False, True]
    assert str(tmp_path) in verdicts[1].problem


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (verdict,) = docs_check.run(tmp_path, [block("$ no-such-program --version\n1\n")])
    assert (verdict.problem, verdict.left_out) == ("", "no-such-program is not installed")


def test_the_copy_has_the_files_and_nothing_of_this_machine(tmp_path: Path) -> None:
    folder = docs_check.copied(tmp_path / "clone")
    assert (folder / "Makefile").read_text() == (ROOT / "Makefile").read_text()
    assert not (folder / ".local").exists()
    assert not (folder / "cdk" / "config").exists()
