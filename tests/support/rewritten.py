"""Compile the tests, with pytest's asserts, before pytest-xdist's workers do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import (
    PYC_TAIL,
    _read_pyc,
    _rewrite_test,
    _write_pyc,
    assertstate_key,
    get_cache_dir,
    try_makedirs,
)


def rewrite(folder: Path, config: pytest.Config) -> None:
    """Write what pytest would write for each test of the folder that has changed.

    In a new checkout each worker would do this, at the same time: three seconds for each of them.
    """
    for path in (*folder.rglob("test_*.py"), *folder.rglob("conftest.py")):
        compiled = get_cache_dir(path) / f"{path.stem}{PYC_TAIL}"
        if _read_pyc(path, compiled) is None and try_makedirs(compiled.parent):
            with contextlib.suppress(SyntaxError):  # collecting the file says so
                source, code = _rewrite_test(path, config)
                _write_pyc(config.stash[assertstate_key], code, source, compiled)
