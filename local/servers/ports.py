"""See that all ports are free before anything starts, so that one run names all that are not."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from local.process import LocalError


def check_free(given: Mapping[str, int]) -> None:
    """Raise `LocalError` that names each port in use, with its option. `given` is option -> port; 0 is any free one."""
    used = {name: (port, problem) for name, port in given.items() if port and (problem := _problem(port))}
    if not used:
        return
    if len(used) == 1:
        ((name, (port, problem)),) = used.items()
        what = f"port {port} cannot be used ({problem}); give another with {name}"
    else:
        listed = ", ".join(f"{port} ({name})" for name, (port, _) in used.items())
        what = f"ports {listed} are in use; stop what uses them"
    raise LocalError(f"{what}, or give --free-ports for any free ones (make up ARGS=--free-ports)")


def _problem(port: int) -> str:
    """Return why a server cannot listen on a port; empty if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
