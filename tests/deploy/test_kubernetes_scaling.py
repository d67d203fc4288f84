"""Scaling on Kubernetes is scaling on AWS: the same figures, and metrics that the roles and nats-server do have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT
from control_plane.parts import ARCHIVE
from deploy import scaling_rules
from deploy.file import read
from deploy.sections import ArchiveSection
from deploy.settings import Settings
from local.process import accepts, claim_port, running
from local.servers.nats_server import binary
from operations import operator
from service.contracts import archive as contract
from tests.support.deploy.kustomize import FOLDER, Resource, environment, of_kind, overlay, pods, roles
from tests.support.nats.declared import ensure
from tests.support.world import Servers, World, get

WITHOUT_CREDIT = "balance_time_without_credit_percent"


def scaled_object() -> Any:
    return of_kind(overlay("production"), "ScaledObject")["archive"]["spec"]


def settings(name: str) -> Settings:
    return Settings.model_validate({"region": "eu-west-1", "initials": "DO", "environment": name})


@pytest.mark.parametrize("name", ["poc", "production"])
def test_the_service_scales_and_is_sized_as_on_aws(name: str) -> None:
    resources, wanted = overlay(name), settings(name)
    scaler = of_kind(resources, "HorizontalPodAutoscaler")["customer"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (wanted.min_tasks, wanted.max_tasks)
    assert scaler["metrics"][0]["resource"] == {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": wanted.target_cpu},
    }  # fmt: skip
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == scaling_rules.SCALE_IN_COOLDOWN_S
    assert scaler["scaleTargetRef"]["name"] in of_kind(resources, "Deployment")
    assert "replicas" not in of_kind(resources, "Deployment")["customer"]["spec"]
    (container,) = pods(resources)["customer"]["spec"]["containers"]
    asked = container["resources"]["requests"]
    assert (asked["cpu"], in_mib(asked["memory"])) == (f"{wanted.cpu * 1000 // 1024}m", wanted.memory)
    assert container["resources"]["limits"] == {"memory": asked["memory"]}


def in_mib(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "Gi" else 1)


def test_production_scales_on_time_without_credit_too() -> None:
    scaler = of_kind(overlay("production"), "HorizontalPodAutoscaler")["customer"]["spec"]
    assert scaler["metrics"][1] == {
        "type": "Pods",
        "pods": {
            "metric": {"name": WITHOUT_CREDIT},
            "target": {"type": "AverageValue", "averageValue": str(scaling_rules.TARGET_WITHOUT_CREDIT_PERCENT)},
        },
    }


async def test_the_adapter_measures_what_the_service_counts(world: World) -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == WITHOUT_CREDIT
    series, labels = re.fullmatch(r"(\w+)\{(.*)\}", rule["seriesQuery"]).groups()  # type: ignore[union-attr]
    assert {label.partition("!=")[0] for label in labels.split(",")} == set(rule["resources"]["overrides"])
    assert rule["metricsQuery"].startswith("100 * sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m]))")
    async with world.task() as task:
        _, page = await get(f"{task.health_url}/metrics")
    assert re.search(rf"(?m)^{series} ", page)
    annotations = pods(overlay("production"))["customer"]["metadata"]["annotations"]
    (container,) = pods(overlay("production"))["customer"]["spec"]["containers"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert int(annotations["prometheus.io/port"]) == container["ports"][0]["containerPort"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="Prometheus is not installed")
def test_prometheus_makes_percents_of_seconds(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    series, _ = rule["seriesQuery"].split("{")
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="customer-balance",pod=~"customer-a|customer-b"')
    labels = 'namespace="customer-balance",pod="customer-%s"'
    case = {
        "interval": "15s",
        "input_series": [
            {"series": f"{series}{{{labels % pod}}}", "values": f"0+{each_15_s}x40"}
            for pod, each_15_s in (("a", 3), ("b", 0))
        ],
        "promql_expr_test": [
            {
                "expr": query, "eval_time": "5m",
                "exp_samples": [
                    {"labels": '{pod="customer-a"}', "value": 20}, {"labels": '{pod="customer-b"}', "value": 0},
                ],
            }
        ],
    }  # fmt: skip
    file = tmp_path / "case.yaml"
    file.write_text(yaml.safe_dump({"tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pods_for(formula: str, backlog: int) -> float:
    """Return what KEDA makes of a formula: a chain of conditions, the first that holds."""
    *steps, last = formula.split(" : ")
    for step in steps:
        bound, number = re.fullmatch(r"backlog >= (\d+) \? (\d+\.0)", step).groups()  # type: ignore[union-attr]
        if backlog >= int(bound):
            return float(number)
    return float(last)


def test_the_archive_follows_the_steps_of_the_settings() -> None:
    """Of a composed metric with the target 1, the HPA makes as many pods as the metric says.

    https://keda.sh/docs/latest/reference/scaledobject-spec/#scalingmodifiers
    """
    section = ArchiveSection.model_validate(read()["archive"])
    found = scaled_object()
    modifiers = found["advanced"]["scalingModifiers"]
    assert (modifiers["target"], modifiers["metricType"]) == ("1", "AverageValue")
    bounds = [step.backlog for step in section.steps]
    for backlog in (0, *(bound + by for bound in bounds for by in (-1, 0, 1)), 10**12):
        assert pods_for(modifiers["formula"], backlog) == section.tasks(backlog), backlog
    assert found["maxReplicaCount"] == section.steps[-1].tasks


def test_the_archive_starts_from_zero_and_ends_at_zero() -> None:
    """By KEDA alone: a Deployment starts a pod again that ends by itself."""
    found, section = scaled_object(), ArchiveSection()
    assert found["minReplicaCount"] == 0
    assert found["cooldownPeriod"] == section.idle_exit
    deployment = of_kind(overlay("production"), "Deployment")["archive"]
    assert found["scaleTargetRef"]["name"] == "archive"
    assert "replicas" not in deployment["spec"]
    (given,) = [
        environment(overlay("production"), each) for role, each in roles(overlay("production")) if role == "archive"
    ]
    assert given["IDLE_EXIT"] == "0"
    assert given["ARCHIVE_SOURCE"] == f"jetstream:{contract.STREAM}"


@pytest.fixture
async def monitored(tmp_path: Path) -> AsyncIterator[tuple[World, str]]:
    """Start a nats-server in operator mode, as deploy/nats makes it, with its monitoring port open."""
    port, monitoring = claim_port(0, ""), claim_port(0, "")
    keys = Key.operator(), Key.account()
    config = tmp_path / "nats-server.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitoring}"\n'
        f'jetstream {{ store_dir: "{tmp_path}/jetstream" }}\n'
        f'resolver {{ type: full, dir: "{tmp_path}/accounts", allow_delete: true, interval: "2m" }}\n'
        + operator.config("test", *keys)
    )
    async with running("nats-server", [binary(), "-c", str(config)], tmp_path / "nats-server.log") as child:
        await child.until(lambda: accepts(port))
        world = World(Servers(f"nats://127.0.0.1:{port}", *keys, {}), Key.account(), "none", tmp_path)
        await world.push()
        async with world.administrator() as admin:
            await ensure(admin, ACCOUNT.plus((ARCHIVE,)), replicas=1)
            for number in range(3):
                await admin.publish(f"customer.balance.{number}", b'{"balance":1}')
        yield world, f"http://127.0.0.1:{monitoring}"


async def test_keda_sees_the_backlog_of_a_server_in_operator_mode(monitored: tuple[World, str]) -> None:
    """By the question that KEDA asks, of which the answer is read as KEDA reads it.

    https://github.com/kedacore/keda/blob/main/pkg/scalers/nats_jetstream_scaler.go
    """
    world, monitoring = monitored
    (trigger,) = scaled_object()["triggers"]
    asked = trigger["metadata"]
    assert (trigger["type"], trigger["name"]) == ("nats-jetstream", "backlog")
    assert (asked["stream"], asked["consumer"]) == (contract.STREAM, contract.CONSUMER)
    account = world.account.public
    query = urlencode({"acc": account, "consumers": "true", "config": "true"})
    _, answer = await get(f"{monitoring}/jsz?{query}")
    (found,) = [each for each in json.loads(answer)["account_details"] if each["id"] == account]
    (stream,) = [each for each in found["stream_detail"] if each["name"] == asked["stream"]]
    (consumer,) = [each for each in stream["consumer_detail"] if each["name"] == asked["consumer"]]
    assert consumer["num_pending"] + consumer["num_ack_pending"] == 3


def test_on_sqs_what_a_pod_holds_is_backlog_too() -> None:
    """As on AWS (`cdk/observability/metrics.py`): else the last pod is ended while it works."""
    component = yaml.safe_load((FOLDER / "components" / "archive-sqs" / "kustomization.yaml").read_text())
    (patch,) = component["patches"]
    changes: list[Resource] = yaml.safe_load(patch["patch"])
    (trigger,) = next(change["value"] for change in changes if change["path"] == "/spec/triggers")
    assert (trigger["type"], trigger["name"]) == ("aws-sqs-queue", "backlog")
    assert trigger["metadata"]["scaleOnInFlight"] == "true"
    queue = component["configMapGenerator"][0]["literals"][0].removeprefix("ARCHIVE_SOURCE=sqs:")
    assert trigger["metadata"]["queueURL"].endswith(f"/{queue}")
