"""`make mutants`: does a test fail when a line of the code is wrong?

cosmic-ray changes one place of a file at a time, in a copy of the project, and runs the tests that mirror the file. A
change that no test sees is a survivor. Stopped, it goes on where it was; a file that has changed, or whose tests have,
starts again. Survivors that are accepted stand in `mutants.toml`, each with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import shutil
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / ".mutants"
ACCEPTED: Final = Path(__file__).with_name("mutants.toml")
LEAST_KILLED: Final = 85.0
"""Percent."""
SLOWER: Final = 4
HANGS_S: Final = 5
"""A test that takes `SLOWER` times as long as the slowest does without a mutant, and some seconds, hangs."""
LINKS: Final = (".venv", "local/node_modules", "cdk/node_modules", "benchmark/node_modules")

LEFT_OUT: Final = (
    r"core/NumberReplacer",  # most numbers are choices; those that others set are literals in the tests
    r"core/RemoveDecorator",
    # One replacement for each arithmetic operator (| is a type, which nothing evaluates) and each comparison.
    r"core/ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_Div|Div_Mul|Mod_Mul|Pow_Mul|FloorDiv_Mul)",
    r"core/ReplaceComparisonOperator_(?!Eq_NotEq|NotEq_Eq|Lt_GtE|LtE_Gt|Gt_LtE|GtE_Lt|Is_IsNot|IsNot_Is|In_NotIn|NotIn_In)",
    r"core/ReplaceUnaryOperator_(?!Delete_)",
)


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    code: str
    """The line, before it was changed."""
    operator: str
    killed: bool


def main() -> int:
    """Exit code: 0 when enough mutants are killed and every survivor is accepted, else 1; 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="of the files below; default: all of them")
    parser.add_argument("--jobs", type=int, default=2, help="files at a time, each in a copy of its own (default: 2)")
    parser.add_argument("--report", action="store_true", help="what is known already; runs nothing")
    parser.add_argument("--survivors", action="store_true", help="where tests alone changed: only what survived before")
    arguments = parser.parse_args()
    manifest = tomllib.loads(ACCEPTED.read_text())
    mirrors: Mapping[str, Sequence[str]] = manifest["mirrors"]
    unknown = set(arguments.files) - mirrors.keys()
    if unknown:
        print(f"error: {ACCEPTED.name} has no mirror for {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    files = arguments.files or list(mirrors)
    try:
        if not arguments.report:
            with ThreadPoolExecutor(arguments.jobs) as pool:
                list(pool.map(lambda file: run(file, mirrors[file], survivors=arguments.survivors), files))
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        return 130
    current = [file for file in files if _is_current(file, mirrors[file])]
    for file in files:
        if file not in current:
            print(f"{file}: not run since it or its tests changed")
    return report(current, manifest.get("accepted", [])) or int(current != files)


def run(file: str, tests: Sequence[str], *, survivors: bool) -> None:
    """Mutate one file until every mutant has a result; or, where only tests were added, try the survivors again."""
    session = _session(file)
    tree = FOLDER / "trees" / session.stem
    order, stamp = session.with_suffix(".order"), session.with_suffix(".sha256")
    again = survivors and stamp.exists() and stamp.read_text().split()[0] == _digest(file)
    _copy(tree)
    print(f"{file}: running", flush=True)
    started = time.monotonic()
    try:
        if not _is_current(file, tests):
            order.write_text("\n".join(_quickest_first(tests, tree)))
            if not again:
                session.unlink(missing_ok=True)
                _prepare(session, file, tree)
                stamp.write_text(_fingerprint(file, tests))
        command = [sys.executable, "-m", "tests.support.mutation", str(session), str(order)]
        subprocess.run([*command, *(["again"] if again else [])], cwd=tree, check=True)
        stamp.write_text(_fingerprint(file, tests))
    finally:
        _kill_in(tree)
        shutil.rmtree(tree)
    print(f"{file}: done in {time.monotonic() - started:.0f} s", flush=True)


def _quickest_first(tests: Sequence[str], tree: Path) -> Sequence[str]:
    """Pytest's arguments: the tests by the time that each takes, so that a mutant dies soon, and a limit for each."""
    report = tree / "junit.xml"
    command = f"{sys.executable} -m pytest -q -p no:cacheprovider -o junit_family=xunit1 --junitxml={report}"
    subprocess.run([*command.split(), *tests], cwd=tree, check=True, stdout=sys.stderr)
    cases = sorted(ET.parse(report).iter("testcase"), key=lambda case: float(case.attrib["time"]))
    limit_s = HANGS_S + SLOWER * float(cases[-1].attrib["time"])
    return [f"--timeout={limit_s:.0f}", *(f"{case.attrib['file']}::{case.attrib['name']}" for case in cases)]


def _prepare(session: Path, file: str, tree: Path) -> None:
    """Have cosmic-ray note each place of the file that it can change, but for those that are left out."""
    config = session.with_suffix(".toml")
    config.write_text(
        f'[cosmic-ray]\nmodule-path = "{file}"\ntimeout = 1\nexcluded-modules = []\ntest-command = ""\n'
        f'[cosmic-ray.distributor]\nname = "local"\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {[*LEFT_OUT]!r}\n"
    )
    for program, *arguments in (
        ("cosmic-ray", "init", str(config), str(session)),
        ("cr-filter-operators", str(session), str(config)),
    ):
        subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=tree, check=True)
    with use_db(session, WorkDB.Mode.open) as db:
        _skip_tuning(db, file)


def report(files: Sequence[str], accepted: Sequence[Mapping[str, Any]]) -> int:
    """Print what is known of each file, and each survivor that nobody accepted."""
    console = Console(width=120, highlight=False)
    table = Table("file", "mutants", "killed", "accepted", "%", box=None)
    everything, left = list[Mutant](), list[Mutant]()
    for file in files:
        found = list(mutants(file))
        survivors = [mutant for mutant in found if not mutant.killed]
        unexplained = [mutant for mutant in survivors if not _is_accepted(mutant, accepted)]
        everything += found
        left += unexplained
        killed = len(found) - len(survivors)
        row = (len(found), killed, len(survivors) - len(unexplained))
        table.add_row(file, *map(str, row), f"{100 * killed / max(1, len(found)):.0f}")
    killed = sum(mutant.killed for mutant in everything)
    percent = 100 * killed / max(1, len(everything))
    table.add_row("all", str(len(everything)), str(killed), "", f"{percent:.1f}")
    console.print(table)
    for mutant in left:
        console.print(f"survived  {mutant.file}:{mutant.line}  {mutant.operator}  {mutant.code}", markup=False)
    return 0 if everything and percent >= LEAST_KILLED and not left else 1


def mutants(file: str) -> Iterator[Mutant]:
    """Those that have a result; without those that were left out, or could not be made."""
    lines = (ROOT / file).read_text().splitlines()
    with use_db(_session(file), WorkDB.Mode.open) as db:
        for item, result in db.completed_work_items:
            if result.worker_outcome == WorkerOutcome.NORMAL:
                (spec,) = item.mutations
                operator = spec.operator_name.removeprefix("core/")
                code = lines[spec.start_pos[0] - 1].strip()
                yield Mutant(file, spec.start_pos[0], code, operator, result.test_outcome != TestOutcome.SURVIVED)


def _skip_tuning(db: WorkDB, file: str) -> None:
    """Leave out a module's constants (a test that must see 2.0 become 3.0 would say the same twice), and signatures."""
    tree = ast.parse((ROOT / file).read_text())
    signatures = [
        range(min([node.lineno, *(each.lineno for each in node.decorator_list)]), node.body[0].lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    constants = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
    ]

    def is_tuning(spec: MutationSpec) -> bool:
        return any(spec.start_pos[0] in lines for lines in (*constants, *signatures))

    skipped = WorkResult(output="a constant", worker_outcome=WorkerOutcome.SKIPPED)
    db.set_multiple_results([item.job_id for item in db.pending_work_items if is_tuning(item.mutations[0])], skipped)


def _is_accepted(mutant: Mutant, accepted: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        entry["file"] in {mutant.file, "*"}
        and entry["code"] in mutant.code
        and mutant.operator in entry.get("operators", [mutant.operator])
        for entry in accepted
    )


def _session(file: str) -> Path:
    FOLDER.mkdir(exist_ok=True)
    return FOLDER / f"{file.removesuffix('.py').replace('/', '.')}.sqlite"


def _is_current(file: str, tests: Sequence[str]) -> bool:
    """Whether the session is of the file and the tests as they are."""
    stamp = _session(file).with_suffix(".sha256")
    return stamp.exists() and stamp.read_text() == _fingerprint(file, tests)


def _fingerprint(file: str, tests: Sequence[str]) -> str:
    return f"{_digest(file)} {_digest(*tests)}"


def _digest(*paths: str) -> str:
    return hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in paths)).hexdigest()


def _copy(tree: Path) -> None:
    """Copy the files that git knows, and link the installed parts."""
    if tree.exists():
        shutil.rmtree(tree)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    for name in LINKS:
        if (ROOT / name).exists():
            (tree / name).symlink_to((ROOT / name).resolve())


def _kill_in(tree: Path) -> None:
    """Kill the tests: they have a session of their own, which Ctrl-C does not reach."""
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(tree):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


if __name__ == "__main__":
    sys.exit(main())
