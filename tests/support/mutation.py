"""`python -m tests.support.mutation SESSION ORDER [again]`: run the tests of each mutant of a session, in its own tree.

`again`: also for mutants that survived before.

The tests run in a fork of this process, which has imported the libraries once: importing takes longer than most tests.
Each fork imports the project's own modules again.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

OURS: Final = frozenset({"service", "control_plane", "local", "benchmark", "cdk", "examples", "tests"})
POLL_S: Final = 0.01
SLOWER: Final = 4
"""A mutant whose tests take this many times as long as without one hangs, and counts as killed."""
STARTING_S: Final = 10.0
"""Extra seconds, for servers on a busy machine."""


def main(session: Path, order: str, again: Sequence[str]) -> int:
    """Return the exit code: 1 if the tests fail without a mutant."""
    for library in ("hypothesis", "pytest_asyncio", "tests.conftest"):
        importlib.import_module(library)
    started = time.monotonic()
    if _killed(order, 600.0, keeps_bytecode=True):
        print(f"error: tests fail without a mutant: {order}", file=sys.stderr)
        return 1
    limit_s = STARTING_S + SLOWER * (time.monotonic() - started)
    with use_db(session, WorkDB.Mode.open) as db:
        survived = [item for item, result in db.completed_work_items if result.test_outcome == TestOutcome.SURVIVED]
        for item in [*db.pending_work_items, *(survived if again else ())]:
            (spec,) = item.mutations
            db.set_result(item.job_id, _result(spec, order, limit_s))
    return 0


def _result(spec: MutationSpec, order: str, limit_s: float) -> WorkResult:
    operator = get_operator(spec.operator_name)(**spec.operator_args)
    with ExitStack() as stack:
        try:
            stack.enter_context(use_mutation(spec.module_path, operator, spec.occurrence))
        except AttributeError as error:  # cosmic-ray cannot replace an exception whose name has a dot
            return WorkResult(output=str(error), worker_outcome=WorkerOutcome.EXCEPTION)
        outcome = TestOutcome.KILLED if _killed(order, limit_s) else TestOutcome.SURVIVED
    return WorkResult(output="", worker_outcome=WorkerOutcome.NORMAL, test_outcome=outcome)


def _killed(order: str, limit_s: float, *, keeps_bytecode: bool = False) -> bool:
    """Return whether a test fails, or the tests do not end."""
    child = os.fork()
    if child == 0:
        os._exit(_test(order, keeps_bytecode))
    deadline_s = time.monotonic() + limit_s
    status = None
    while status is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    if status is None:
        os.killpg(child, signal.SIGKILL)  # its servers end with it
        os.waitpid(child, 0)
    return status != 0


def _test(order: str, keeps_bytecode: bool) -> int:
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    # If a source changes twice within a second, Python would use the bytecode of the first change.
    sys.dont_write_bytecode = not keeps_bytecode
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    warnings = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *warnings, f"@{order}"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
