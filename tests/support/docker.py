"""The Docker engine of this machine, for the tests that need one."""

from __future__ import annotations

import os
import subprocess
from typing import Any, Final

import pytest

PYTHON_TAG: Final = os.environ.get("PYTHON_TAG", "3.11-slim-bookworm")
"""The tag of the Python image that the images are built on."""


def docker(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, env=env, check=False, **options)


def _why_not() -> str:
    """Why the container tests cannot run; empty when they can."""
    try:
        if docker("info").returncode:
            return "no Docker engine is reachable"
    except FileNotFoundError:
        return "Docker is not installed"
    return ""


_REASON: Final = _why_not()
NEEDS_DOCKER: Final = [
    pytest.mark.docker,
    pytest.mark.xdist_group("docker"),
    pytest.mark.skipif(bool(_REASON), reason=f"THE CONTAINER TESTS DID NOT RUN: {_REASON}"),
]
