"""What operators are given: a dashboard whose every panel has data, and a runbook that leaves nothing out."""

from __future__ import annotations

import ast
import asyncio
import json
import math
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.aio.client import Client

from local.process import ROOT, accepts, claim_port, running
from local.system import Task
from service.runtime.cancel import cancel
from tests.support.drills.drill import traffic
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal
from tests.support.ledger.adjusting import adjust
from tests.support.world import World, eventually, tasks

OPERATIONS = ROOT / "operations"
DASHBOARD = OPERATIONS / "grafana" / "dashboards" / "customer-balance.json"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


@asynccontextmanager
async def prometheus(folder: Path, scraped: list[Task]) -> AsyncIterator[str]:
    """Debian's own, with the repository's configuration, pointed at these tasks. Its address."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed")
    config = (OPERATIONS / "prometheus.yml").read_text()
    targets = ", ".join(f'"{task.health_url.removeprefix("http://")}"' for task in scraped)
    config = re.sub(r"targets: \[.*\]", f"targets: [{targets}]", config)
    config = config.replace("scrape_interval: 5s", "scrape_interval: 500ms")
    folder.mkdir()
    (folder / "prometheus.yml").write_text(config)
    port = claim_port(0, "")
    command = [
        binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    async with running("prometheus", command, folder / "prometheus.log") as child:
        await child.until(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def earning(world: World) -> AsyncIterator[None]:
    """A client earns a point, again and again."""

    async def earn(teller: Client) -> None:
        for number in count():
            await adjust(teller, "1", 1, f"earned-{number}")
            await asyncio.sleep(0.1)

    async with world.client("teller") as teller:
        earned = asyncio.create_task(earn(teller))
        try:
            yield
        finally:
            await cancel(earned)


async def test_every_panel_has_data(world: World, proxy: FaultyDynamoDB, tmp_path: Path) -> None:
    calls = 0

    def sometimes_busy(_action: str, _call: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        return refusal("ThrottlingException") if calls % 10 == 0 else None

    env = {**await world.with_adjustments(), "SEED_ROWS": "1000", **proxy.env}
    async with tasks(world, 2, **env) as started, prometheus(tmp_path / "prometheus", started) as url:
        proxy.fault = sometimes_busy
        async with traffic(world, 100) as load, earning(world), aiohttp.ClientSession() as http:
            waiting = {
                target["expr"]: f"{panel['title']}: {target['legendFormat']}"
                for panel in panels()
                for target in panel["targets"]
            }
            assert len(waiting) > 20

            async def values(expression: str) -> list[float]:
                query = expression.replace("$__rate_interval", "3s")
                async with http.get(f"{url}/api/v1/query", params={"query": query}) as response:
                    body = await response.json()
                assert body["status"] == "success", body
                return [float(result["value"][1]) for result in body["data"]["result"]]

            async with asyncio.timeout(30):
                while waiting:
                    for expression in list(waiting):
                        found = await values(expression)
                        if found and not any(map(math.isnan, found)):
                            del waiting[expression]
                    await asyncio.sleep(0.1)
            assert await values('sum(up{job="customer-balance"})') == [2]

            async def rate_is_the_loads() -> bool:
                (rate,) = await values('sum(rate(balance_requests_total{job="customer-balance",outcome="OK"}[5s]))')
                return 70 < rate < 130

            await eventually(rate_is_the_loads, within_s=20, what="a rate of 100 requests/s")
            await load.finish()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Its own fields: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/."""
    dashboard = json.loads(DASHBOARD.read_text())
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    source = (OPERATIONS / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    for panel in panels():
        assert f"uid: {panel['datasource']['uid']}" in source
        assert panel["description"]


def logged_above_info() -> list[str]:
    """The text of every such line in the service: an argument of the call, or of the object that writes it."""
    found = []
    for path in sorted((ROOT / "service").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = node.func
            if isinstance(call, ast.Name) and call.id in {"Repeated", "Failures"}:
                if path.name == "failures.py" and isinstance(node.args[1], ast.Name):
                    continue  # `Failures` writes what its callers give it
                found.append(ast.literal_eval(node.args[1]).partition(";")[0])
            elif (
                isinstance(call, ast.Attribute)
                and isinstance(call.value, ast.Name)
                and call.value.id == "log"
                and call.attr in {"warning", "error", "exception", "critical"}
            ):
                found.append(ast.literal_eval(node.args[0]).partition(";")[0])
    return found


def test_the_runbook_has_every_line_above_info() -> None:
    lines = logged_above_info()
    assert len(lines) >= 10
    assert [line for line in lines if f"| `{line}` |" not in RUNBOOK] == []


def test_the_runbook_has_every_alarm_and_no_other() -> None:
    sources = "".join(
        path.read_text() for path in sorted((ROOT / "cdk").rglob("*.py")) if "node_modules" not in path.parts
    )
    alarms = re.findall(r'make\(\s*(?:self,\s*)?"([A-Z]\w+)"', sources)
    assert len(alarms) >= 12
    section = RUNBOOK.partition("## Alarms")[2].partition("## Log lines")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(alarms)
