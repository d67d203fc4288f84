"""`make docs-check`: run the commands of the pages that are marked to be run, and compare the shape of their output.

A console block with the word `run` after its language is run, page by page, in a copy of this folder (its path has a
space) and beside its own `make up`: nothing here is changed. Numbers and times may differ from the page's, everything
else must be the same; a line `...` stands for any lines. A block that needs a program which is not installed is left
out, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.process import ROOT
from tests.support.pages import RUN, Block, Step, assignments, blocks, pages

LINKS: Final = (".venv", "local/node_modules", "cdk/node_modules", "benchmark/node_modules")
UP: Final = ("make", "--no-print-directory", "up", "TASKS=2", "QUEUE=1", "ARCHIVE=1")
UP_S: Final = 120
PAGE_S: Final = 300
ANY: Final = "..."
_MARK: Final = "@@docs-check"
_SHAPES: Final = (
    (re.compile(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z"), "TIME"),
    (re.compile(r"\d[\d,]*(\.\d+)?"), "0"),
    (re.compile(r"[ \t]+"), " "),
)
_BUILT_IN: Final = frozenset({"cd", "export", "printf", "echo", "set", "read"})


@dataclass(frozen=True)
class Verdict:
    where: str
    problem: str = ""
    left_out: str = ""


def shape(output: str) -> list[str]:
    """Return an output's lines without what differs from run to run, and without empty lines."""
    lines = []
    for line in output.splitlines():
        shown = line.strip()
        for pattern, instead in _SHAPES:
            shown = pattern.sub(instead, shown)
        if shown:
            lines.append(shown)
    return lines


def is_as_shown(shown: str, actual: str) -> bool:
    """Return whether the output has the shape that the page shows."""
    pattern = "".join(r"(?:.*\n)*" if line == ANY else re.escape(line) + r"\n" for line in shape(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in shape(actual))) is not None


def main() -> int:
    """Exit code 1: an output has another shape, or the system does not start."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs_check", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run; default: all")
    chosen = [page.resolve() for page in parser.parse_args().pages] or pages()
    found = {page: [block for block in blocks(page) if RUN in block.words] for page in chosen}
    bad = 0
    with tempfile.TemporaryDirectory(prefix="docs-check-") as name, up(copied(Path(name) / "a clone")) as folder:
        for its_blocks in found.values():
            for verdict in run(folder, its_blocks):
                bad += bool(verdict.problem)
                word = "FAILED" if verdict.problem else "left out" if verdict.left_out else "ok"
                print(f"{word:<9}{verdict.where}  {verdict.problem or verdict.left_out}".rstrip(), flush=True)
    return 1 if bad else 0


def copied(folder: Path) -> Path:
    """Copy what git knows and what is new, and link what set-up has installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(LINKS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in LINKS:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    for lock in (folder / "requirements" / "dev.txt", *folder.glob("*/package-lock.json")):
        os.utime(lock, (0, 0))  # older than what is installed: set-up has nothing to do
    return folder


@contextlib.contextmanager
def up(folder: Path) -> Iterator[Path]:
    """Run the whole system in `folder`, on the ports that the pages name. Ends the program if it does not start."""
    log = folder / "up.log"
    with log.open("w") as output:
        system = subprocess.Popen(UP, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + UP_S
        while "Ctrl-C stops everything" not in log.read_text():
            if system.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"error: make up did not start: {(log.read_text().strip().splitlines() or ['nothing'])[-1]}")
            time.sleep(0.2)
        yield folder
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(system.pid, signal.SIGINT)
        system.wait()


def run(folder: Path, its_blocks: Sequence[Block]) -> Iterator[Verdict]:
    """Run a page's blocks in one shell, so that a later one may use what an earlier one defines."""
    lacking = {block: missing(block, its_blocks) for block in its_blocks}
    runnable = [block for block, program in lacking.items() if not program]
    steps = [(block, step) for block in runnable for step in block.steps]
    outputs = executed(folder, [step for _, step in steps])
    for block, program in lacking.items():
        if program:
            yield Verdict(block.where, left_out=f"{program} is not installed")
    for block in runnable:
        problems = [
            f"`{step.command}` printed\n{output}"
            for (its, step), output in zip(steps, outputs, strict=True)
            if its is block and not is_as_shown(step.output, output)
        ]
        yield Verdict(block.where, problem="\n".join(problems))


def executed(folder: Path, steps: Sequence[Step]) -> list[str]:
    """Return what each command printed."""
    if not steps:
        return []
    script = "".join(f"printf '\\n{_MARK}\\n'\n{step.command}\n" for step in steps)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=PAGE_S, check=False,
    )  # fmt: skip
    outputs = done.stdout.split(f"\n{_MARK}\n")[1:]
    return [*outputs, *[""] * (len(steps) - len(outputs))]


def missing(block: Block, its_blocks: Sequence[Block]) -> str:
    """Return a program that a block needs and that is not installed; empty if there is none."""
    scripts = "\n".join(each.script for each in its_blocks)
    defined = set(re.findall(r"(?m)^(\w+)\(\)", scripts)) | _BUILT_IN
    for words in block.commands():
        rest = assignments(words)[1]
        if rest and "/" not in rest[0] and rest[0] not in defined and not shutil.which(rest[0]):
            return rest[0]
    return ""


if __name__ == "__main__":
    sys.exit(main())
