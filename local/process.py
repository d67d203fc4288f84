"""Child processes: wait until they are ready, and end them with this process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import os
import random
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import orjson

from service import ENDED

ROOT: Final = Path(__file__).parent.parent
FREE_PORTS: Final = range(20_000, 32_000)
READY_S: Final = 30.0
POLL_S: Final = 0.02
STOP_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
"""https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html"""
_libc: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
_stdin, _never_written_to = os.pipe()
"""Each child's stdin. It ends when this process ends, however that happens; Docker's engine ends with it."""
_children: Final[set[asyncio.subprocess.Process]] = set()
_held_ports: Final[deque[socket.socket]] = deque(maxlen=100)


class LocalError(Exception):
    """The local system cannot run; the message is one line with the reason and what to do."""


class Child:
    """A running child process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return _readable(next((line for line in reversed(lines) if line.strip()), "it said nothing"))

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def wait(self) -> int:
        """Return the exit code; for a signal, its negative number."""
        return await self.process.wait()

    async def stop(self) -> int:
        """Send SIGTERM, and SIGKILL `STOP_S` seconds later if it still runs; return the exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                return await self.process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.process.wait()

    async def until(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Wait for `ready`; raises `LocalError` when the process ends first, or takes `READY_S` seconds."""
        try:
            async with asyncio.timeout(READY_S):
                while not await ready():
                    if self.process.returncode is not None:
                        raise LocalError(f"{self.name} ended with {self.process.returncode}: {self.last_words()}")
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise LocalError(f"{self.name} was not ready in {READY_S:g} seconds; see {self.log}") from None


def kill_children() -> None:
    """Kill every child at once, without letting it finish its work."""
    for process in _children:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _die_with_parent() -> None:
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@asynccontextmanager
async def running(
    name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Run `command` in the project's root with its output appended to `log`; stop it at the end.

    It has its own session, so that Ctrl-C reaches only this process and the children end in order. On Linux it is
    killed if this process ends without stopping it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=_stdin, stdout=output, stderr=output,
                env=dict(env) if env is not None else None, cwd=ROOT, start_new_session=True,
                preexec_fn=_die_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise LocalError(f"{name} cannot be started ({error.strerror}: {command[0]}); run `make setup`") from None
    child = Child(name, process, log)
    _children.add(process)
    try:
        yield child
    finally:
        await child.stop()
        _children.discard(process)


async def accepts(port: int) -> bool:
    """Return whether any program on this machine accepts connections on `port`."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def claim_port(port: int, option: str) -> int:
    """Return `port`, or a free port for 0. Raises `LocalError` when it is taken.

    Free ports are chosen below the ephemeral range: a client that keeps reconnecting to a stopped server could get the
    server's own port, connect to itself, and block the server from starting.
    """
    candidates = [port] if port else random.sample(FREE_PORTS, 100)
    problem = ""
    for candidate in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
                if not port:
                    _hold(candidate)
            except OSError as error:
                problem = error.strerror or str(error)
            else:
                return candidate
    raise LocalError(
        f"port {candidates[0]} cannot be used ({problem}); give another with {option}, or 0 for any free one"
    )


@atexit.register
def _let_go() -> None:
    while _held_ports:
        _held_ports.pop().close()


def _hold(port: int) -> None:
    """Reserve a port until its server listens, against others that claim a free one. Raises `OSError` if reserved.

    It binds the UDP port of the same number, which is otherwise unused: no file, and released with the process.
    """
    held = socket.socket(type=socket.SOCK_DGRAM)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    if len(_held_ports) == _held_ports.maxlen:
        _held_ports.popleft().close()
    _held_ports.append(held)


def _readable(line: str) -> str:
    """Return a service's last JSON line as text, any other line unchanged."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line
    return f"error: {said['problem']}; {said['remedy']}" if said.get("event") == ENDED else line
