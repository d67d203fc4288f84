"""Ports that are claimed before a server listens on them."""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import pytest

from local.process import LocalError, claim_port

CLAIM = "import random; from local.process import claim_port; random.sample = lambda *_: {}; print(claim_port(0, ''))"


def test_a_free_port_is_given_to_one_alone_before_its_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    port = claim_port(0, "")
    monkeypatch.setattr(random, "sample", lambda *_: [port])
    with pytest.raises(LocalError, match="0 for any free one"):
        claim_port(0, "")


def test_another_process_is_given_another_one() -> None:
    port, next_one = claim_port(0, ""), claim_port(0, "")
    command = [sys.executable, "-c", CLAIM.format([port, next_one, *range(31_000, 31_100)])]
    given = int(subprocess.check_output(command))
    assert given not in {port, next_one}


def test_a_port_that_is_asked_for_is_given_as_long_as_nobody_listens() -> None:
    port = claim_port(0, "")
    assert claim_port(port, "--port") == claim_port(port, "--port") == port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(LocalError, match="give another with --port"):
        claim_port(port, "--port")
