"""Real servers for the session, an account and a table for each test."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import botocore.hooks
import botocore.session
import pytest
import trustme
from _pytest.nodeid import coerce_node_id

from control_plane.desired import EVERYTHING
from local.servers.moto import moto as run_moto
from tests.support.archive import ArchiveWorld, make_archive
from tests.support.devices.world import DevicesWorld, make_devices
from tests.support.drills.drill import Drill, drill_table
from tests.support.dynamodb.faulty import FaultyDynamoDB, faulty_dynamodb
from tests.support.warm import warm_starts
from tests.support.world import Servers, World, make_world, start_servers

WAITING: Final = {"service", "e2e", "examples", "operations"}
"""Folders whose tests mostly wait for servers; those of the others mostly compute."""
MEMORY: Final = Path("/dev/shm")
MEMORY_BYTES: Final = 4 << 30


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--drill-full", action="store_true", help="drills in full, as `make drill` runs them")
    parser.addoption("--scaling-chart", type=Path, help="where the drill on scaling draws what it saw, as SVG")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is compiled, and keep in memory what tests write: a database waits for the disk at each row.

    Each of pytest-xdist's workers would compile all tests again. Drills in full are measured with the disk, and memory
    needs a Linux that has room.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not config.getoption("numprocesses", None):
        gc.disable()  # until all is imported
    if config.getoption("--drill-full") or not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return
    if not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:  # some tests make programs
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--drill-full"):
        reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
        terminalreporter.write(drill_table(reports))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Name each test's group in its id, where pytest-xdist looks for it.

    pytest-xdist 3.8 does so in an attribute that pytest 9.2 no longer reads: no group would be kept together.
    """
    if getattr(config.option, "loadgroup", False):
        items[:] = _mixed(items)
        for item in items:
            marker = item.get_closest_marker("xdist_group")
            group = marker.args[0] if marker else _sharing(item)
            if group and "@" not in item.nodeid.rpartition("]")[2]:
                item._id = coerce_node_id(f"{item.nodeid}@{group}")


def _sharing(item: pytest.Item) -> str:
    """Return a group for a test that uses what takes long to start, else "": each worker would start it again."""
    fixtures = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    if "moto" in fixtures:
        return "moto"
    is_of_the_file = any(fixture.scope == "module" for (*_, fixture) in fixtures.values())
    return f"{item.path.parent.name}/{item.path.stem}" if is_of_the_file else ""


def _mixed(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with the files whose tests mostly wait between the others, all the way."""
    root = Path(__file__).parent
    waiting = [item for item in items if item.path.relative_to(root).parts[0] in WAITING]
    others = [item for item in items if item.path.relative_to(root).parts[0] not in WAITING]
    place: dict[Path, float] = {}
    for part in (waiting, others):
        for number, item in enumerate(part):
            place.setdefault(item.path, number / len(part))
    return sorted(items, key=lambda item: place[item.path])


def pytest_collection_finish() -> None:
    """Let no garbage collection walk what was imported: it stays."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def quick_starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Spare each program that is started from reading the system's 150 authorities.

    `import aiohttp` alone reads them twice, a tenth of a second; no test talks to a public server.
    """
    authority = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    folder = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        if folder.startswith(f"{MEMORY}/"):  # elsewhere its path may be too long for a socket
            patch.setenv("TMPDIR", folder)
            patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("SSL_CERT_FILE", str(authority))
        with warm_starts():
            yield


@pytest.fixture(scope="session", autouse=True)
def quick_sessions() -> Iterator[None]:
    """Let botocore read its models once for all sessions, and look at its 200 handlers once.

    Each session would read the models again, a tenth of a second for a client, and would look again at each handler's
    signature and event name, a hundredth.
    """
    accepts_kwargs = botocore.hooks.accepts_kwargs
    aliaser: Any = botocore.hooks.EventAliaser  # each session has one, with the same names

    def accepts(handler: Any) -> bool:
        code = getattr(handler, "__code__", None)
        return bool(code.co_flags & inspect.CO_VARKEYWORDS if code else accepts_kwargs(handler))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        patch.setattr(botocore.hooks, "accepts_kwargs", accepts)
        patch.setattr(aliaser, "_alias_event_name", staticmethod(functools.cache(aliaser(None)._alias_event_name)))
        yield


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Drill:
    gc.collect()  # the tests' own pauses are not the service's
    gc.freeze()
    what, must = request.node.get_closest_marker("drill").args
    if hasattr(request.node, "callspec"):
        what = what.format(request.node.callspec.id)
    request.node.user_properties.append(("drill", f"{what}\n{must}"))
    return Drill(request.config.getoption("--drill-full"), request.node.user_properties)


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    async with start_servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
async def world(servers: Servers, tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(servers, tmp_path) as world:
        yield world


@pytest.fixture(scope="session")
async def common(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Make a world for tests that only ask what its users may do: making one takes longer than asking."""
    async with make_world(servers, tmp_path_factory.mktemp("common"), EVERYTHING) as world:
        yield world


@pytest.fixture
async def archive(world: World) -> AsyncIterator[ArchiveWorld]:
    async with make_archive(world) as archive:
        yield archive


@pytest.fixture
async def devices(world: World) -> AsyncIterator[DevicesWorld]:
    async with make_devices(world) as devices:
        yield devices


@pytest.fixture
async def proxy(servers: Servers) -> AsyncIterator[FaultyDynamoDB]:
    async with faulty_dynamodb(servers.dynamodb_env) as proxy:
        yield proxy


@pytest.fixture
def aws(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the AWS configuration of the test's process be the engine's."""
    for name, value in servers.dynamodb_env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
async def moto(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Start moto's server, which stands in for AWS; yield its address."""
    async with run_moto(tmp_path_factory.mktemp("moto") / "moto.log") as url:
        yield url
