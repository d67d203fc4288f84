"""Which servers a client goes to, told from INFO lines as nats-server and others write them."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlparse

import pytest
from nats.aio.client import Srv

from service.nats.link.servers import BACKOFF_MAX_S, Servers


def given(*urls: str) -> tuple[Servers, list[str]]:
    odd: list[str] = []
    return Servers([Srv(urlparse(url)) for url in urls], odd.append), odd


def said(servers: Servers, *addresses: Any, by: int = 0) -> list[Srv]:
    """What is known beside the given ones, after the server at `by` said this."""
    servers.take({"connect_urls": list(addresses)}, servers.all()[by])
    return [server for server in servers.all() if server.discovered]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("nats://a:4222", "nats://b:4222"),
        ("nats://me:p%40ss@a:4222", "nats://me:p%40ss@b:4222"),
        ("nats://token@a:4222", "nats://token@b:4222"),
        ("tls://me:it@a:4222", "tls://me:it@b:4222"),
        ("ws://a:4222", "ws://b:4222"),
        ("wss://me:it@a", "wss://me:it@b:4222"),
    ],
)
def test_a_server_is_reached_as_the_one_that_said_it(url: str, found: str) -> None:
    servers, _ = given(url)
    (server,) = said(servers, "b:4222")
    assert server.uri.geturl() == found


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("nats://me:it@a:4222", "a:4222"),
        ("nats://A", "a:4222"),
        ("tls://a", "a"),
        ("ws://a", "a:80"),
        ("wss://a", "a:443"),
        ("nats://[::1]:4222", "[::1]:4222"),
    ],
)
def test_the_same_host_and_port_is_one_entry(url: str, address: str) -> None:
    servers, _ = given(url)
    assert said(servers, address) == []


def test_an_ip_is_verified_by_the_name_that_was_given_however_often_it_is_passed_on() -> None:
    servers, _ = given("tls://nats.example:4222")
    (first,) = said(servers, "10.0.0.1:4222")
    assert first.tls_name == "nats.example"
    (second,) = said(servers, "10.0.0.2:4222", by=1)
    assert second.tls_name == "nats.example"
    (named,) = said(servers, "other.example:4222", by=1)
    assert named.tls_name is None, "a name is its own"


def test_the_list_is_what_was_said_last() -> None:
    servers, _ = given("nats://a:4222")
    assert {server.uri.hostname for server in said(servers, "b:1", "c:1")} == {"b", "c"}
    servers.bad(next(server for server in servers.all() if server.uri.hostname == "c"))
    kept, new = sorted(said(servers, "c:1", "d:1"), key=lambda server: server.uri.hostname or "")
    assert (kept.uri.hostname, kept.reconnects) == ("c", 1), "what is known of it stays"
    assert new.uri.hostname == "d"
    servers.take({}, servers.all()[0])
    assert len(servers.all()) == 3, "a server that says nothing of others takes none back"


@pytest.mark.parametrize("address", ["::5:4222", "b:99999", "", "[::1", "b:x", None, 7])
def test_an_odd_address_is_skipped_and_said_once(address: Any) -> None:
    servers, odd = given("nats://a:4222")
    for _ in range(3):
        found = said(servers, address, "b:4222")
    assert [server.uri.hostname for server in found] == ["b"]
    assert odd == [str(address)]


def test_the_last_good_and_the_given_ones_come_first_and_those_that_failed_last() -> None:
    servers, _ = given("nats://a:1", "nats://b:1")
    said(servers, "c:1", "d:1")
    by_name = {server.uri.hostname: server for server in servers.all()}
    servers.good(by_name["d"])
    order = [server.uri.hostname for server in servers.in_order()]
    assert order[0] == "d"
    assert set(order[1:3]) == {"a", "b"}
    servers.bad(by_name["d"])
    servers.bad(by_name["a"])
    assert {server.uri.hostname for server in servers.in_order()[:2]} == {"b", "c"}
    servers.good(by_name["a"])
    assert servers.in_order()[0] is by_name["a"]


@pytest.mark.parametrize(("rounds", "longest_s"), [(0, 0.1), (3, 0.8), (5, 2.0), (1000, 2.0)])
def test_the_backoff_has_full_jitter_and_an_upper_bound(rounds: int, longest_s: float) -> None:
    """Tasks that lost the server at the same moment must not come back at the same moment."""
    servers, _ = given("nats://a:1")
    for _ in range(rounds):
        servers.begin_round()
    waits = [servers.backoff_s() for _ in range(50)]
    assert len(set(waits)) == 50
    assert 0 <= min(waits) < longest_s / 2 < max(waits) <= min(longest_s, BACKOFF_MAX_S)


def test_a_server_that_accepts_and_closes_at_once_is_asked_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    servers, _ = given("nats://a:1")
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    def longest_s() -> float:
        return max(servers.backoff_s() for _ in range(50))

    for _ in range(5):
        servers.begin_round()
        servers.good(servers.all()[0])
        servers.lost()
    assert longest_s() > 1.0
    servers.begin_round()
    servers.good(servers.all()[0])
    now_s += BACKOFF_MAX_S + 1
    servers.lost()
    assert longest_s() <= 0.1
