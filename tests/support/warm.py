"""Start the project's programs from a process that has imported them: imports were half of the suite's CPU.

`warm_starts` changes what `subprocess` does for `python -m service` and its like, and for nothing else: the program is
forked from a process that has imported its modules and read botocore's models, and has run none of it. It is a child of
the caller's as any other, with its own environment, streams, folder and session; it dies with its parent. What is
started through another program (`make up` starts tasks) is started as users start it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final
from unittest import mock

ROOT: Final = Path(__file__).parents[2]
ROLES: Final = ("customer", "archive", "queue", "devices")
COMMON: Final = ("service.nats.client", "service.nats.connect", "service.nats.link.reconnect", "service.nats.settings")
"""Modules that each of these programs imports: with what they stand on, two thirds of what it imports."""
TOGETHER: Final = (
    ("benchmark.__main__",),
    ("control_plane.__main__",),
    ("local.__main__",),
    ("benchmark.load.generator", "benchmark.load.raw_generator"),
    (
        "benchmark.cost.adjust",
        "benchmark.cost.archive",
        "benchmark.cost.create",
        "benchmark.cost.loading",
        "benchmark.peers.bare_readings",
    ),
    ("operations.export.__main__", "operations.history", "operations.load.__main__", "operations.reconcile"),
)
"""Modules that one process imports: programs that import nearly the same."""
READ_AT_IMPORT: Final = (
    "PYTHON",
    "SSL_",
    "GRPC_",
    "OTEL_",
    "LC_",
    "LANG",
    "TERM",
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
)
"""Variables that libraries read at import: a program that gets other values is started cold."""
DIE_WITH_PARENT: Final = "_die_with_parent"
"""Name in `local.process`: a program started here dies with its parent, too."""
PIPES: Final = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
MESSAGE_BYTES: Final = 1 << 20
COMMAND_BYTES: Final = 500
"""Room for a program's command line as `ps` shows it."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
"""https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html"""


@contextlib.contextmanager
def warm_starts() -> Iterator[None]:
    """Start the project's programs warm meanwhile, on Linux; elsewhere nothing changes."""
    if sys.platform != "linux":
        yield
        return
    cold = subprocess.Popen._execute_child  # type: ignore[attr-defined]  # where a child is made
    signature, common, started = inspect.signature(cold), list[_Common](), dict[str, _Warm]()

    def execute_child(popen: Any, *arguments: Any, **named: Any) -> None:
        how = signature.bind(popen, *arguments, **named).arguments
        env = dict(os.environ if how["env"] is None else how["env"])
        modules = _modules(how, env)
        if not modules:
            cold(popen, *arguments, **named)
            return
        if not common:
            common.append(_Common())
        warm = started.get(modules) or started.setdefault(modules, common[0].start(modules))
        request = {
            "arguments": how["args"][2:],
            "env": env,
            "cwd": str(how["cwd"] or Path.cwd()),
            "session": how["start_new_session"],
        }
        streams = ("p2cread", 0), ("c2pwrite", 1), ("errwrite", 2)
        popen.pid = warm.start(request, [own if how[name] == -1 else how[name] for name, own in streams])
        popen._child_created = True
        popen._close_pipe_fds(*(how[name] for name in PIPES))

    try:
        with mock.patch.object(subprocess.Popen, "_execute_child", execute_child):
            yield
    finally:
        for warm in started.values():
            warm.end()
        for each in common:
            each.end()


def _modules(how: Mapping[str, Any], env: Mapping[str, str]) -> str:
    """Return the modules to import for this command; empty: start it cold."""
    command = how["args"]
    if isinstance(command, (str, bytes)) or list(command[:2]) != [sys.executable, "-m"]:
        return ""
    first = getattr(how["preexec_fn"], "__name__", DIE_WITH_PARENT)
    is_plain = not how["pass_fds"] and not how["shell"] and first == DIE_WITH_PARENT
    if not is_plain or any(os.environ.get(name) != env[name] for name in env if name.startswith(READ_AT_IMPORT)):
        return ""
    module = command[2]
    if module == "service":
        return f"service.__main__,service.{next((role for role in ROLES if role in command[3:]), ROLES[0])}.role"
    return next((",".join(group) for group in TOGETHER if {module, f"{module}.__main__"} & {*group}), "")


class _Common:
    """A process that has imported what all the programs import, and forks one that imports a module, on request."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        command = [sys.executable, "-m", __spec__.name, str(theirs.fileno()), " " * COMMAND_BYTES]
        self._process = subprocess.Popen(
            command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not pytest's file: a fork's stdout would take itself for one that seeks
        )  # fmt: skip
        theirs.close()

    def start(self, modules: str) -> _Warm:
        """Let one import these modules; they are no argument: tests look for programs by their command lines."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._lock, theirs:
            socket.send_fds(self._socket, [modules.encode()], [theirs.fileno()])
        return _Warm(ours)

    def end(self) -> None:
        self._socket.close()
        self._process.communicate()


class _Warm:
    """A process that has imported a module, and forks on request."""

    def __init__(self, requests: socket.socket) -> None:
        self._socket = requests
        self._lock = threading.Lock()

    def start(self, request: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Fork it; return the pid of the fork, which is a child of this process."""
        with self._lock:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], list(streams))
                return int(self._socket.recv(64))
            finally:
                _prctl(_PR_SET_CHILD_SUBREAPER, 0)

    def end(self) -> None:
        self._socket.close()


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    _read_models()
    gc.collect()
    gc.freeze()  # else each fork's collections walk what was imported, and copy it page by page


def _read_models() -> None:
    """Read the files from which botocore makes a client for DynamoDB: a third of a task's start."""
    if session := sys.modules.get("botocore.session"):
        session.create_loader = functools.cache(session.create_loader)  # type: ignore[attr-defined]
        loader = session.create_loader(None)
        for kind in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model("dynamodb", kind)
        for name in ("endpoints", "partitions", "sdk-default-configuration"):
            loader.load_data(name)


def _fork_groups(asked: socket.socket) -> tuple[socket.socket, list[str]]:
    """Fork for each group of modules, until the other side is gone. Return in each fork, with its requests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for one
    while True:
        message, sockets, _, _ = socket.recv_fds(asked, MESSAGE_BYTES, 1)
        if not message:
            os._exit(0)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return socket.socket(fileno=sockets[0]), message.decode().split(",")
        os.close(sockets[0])


def _serve(requests: socket.socket) -> list[str]:
    """Fork for each request, until the other side is gone. Return in each fork, with its command line."""
    while True:
        message, streams, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
        if not message:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if not between:  # it ends at once: what it has forked becomes the caller's child
            between = os.getpid()
            if pid := os.fork():
                os.write(writing, str(pid).encode())
                os._exit(0)
            os.close(reading)
            os.close(writing)
            break
        os.close(writing)
        for stream in streams:
            os.close(stream)
        os.waitpid(between, 0)
        requests.send(os.read(reading, 64))
        os.close(reading)
    while os.getppid() == between:
        time.sleep(0.0005)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return _become(json.loads(message), streams)


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> list[str]:
    if request["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=text.isatty() or text is sys.stderr)  # type: ignore[union-attr]  # no TextIO
    command: list[str] = request["arguments"]
    _be_called([sys.executable, "-m", *command])
    return command


def _be_called(command: Sequence[str]) -> None:
    """Let `ps` show the program's command line: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # 48 and 49 of the page; these begin with 3
    shown = "\0".join(command).encode()[: end - begin - 1]
    ctypes.memmove(begin, shown.ljust(end - begin, b"\0"), end - begin)


def _leave(ending: SystemExit) -> None:
    """End as the interpreter does, but do not clear its modules: that copies each page that is shared with the others.

    That was a third of a task's CPU. Where the last output cannot be written, the interpreter says so itself.
    """
    if not isinstance(ending.code, int | None):  # it is printed
        raise ending
    threading._shutdown()  # type: ignore[attr-defined]  # https://docs.python.org/3/c-api/init.html#c.Py_FinalizeEx
    atexit._run_exitfuncs()
    try:
        for text in filter(None, (sys.stdout, sys.stderr)):
            text.flush()
    except (OSError, ValueError):
        raise ending from None
    os._exit(ending.code or 0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _import(COMMON)
        requests, modules = _fork_groups(asked)
    with requests:
        _import(modules)
        sys.argv = _serve(requests)
    program = sys.argv[0]
    for module in (f"{program}.__main__", *({program} & {*chain(*TOGETHER)})):  # it is run, not imported
        sys.modules.pop(module, None)
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        _leave(ending)
