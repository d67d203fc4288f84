"""The manifests: what Kubernetes' own schemas say, and what a reader of the README is promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/kubernetes/queue.yaml"
DEVICES = ROOT / "deploy/kubernetes/devices.yaml"


@pytest.fixture
def deployment() -> Any:
    return yaml.safe_load(MANIFEST.read_text())


def test_it_is_valid(deployment: Any) -> None:
    kubernetes_validate.validate(deployment, "1.29", strict=True)


def test_the_sidecar_is_a_native_one_and_locked_up(deployment: Any) -> None:
    pod = deployment["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    assert (sidecar["restartPolicy"], sidecar["args"]) == ("Always", ["queue"])
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(sidecar)
    for container in (sidecar, *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_it_holds_no_key(deployment: Any) -> None:
    pod = deployment["spec"]["template"]["spec"]
    variables = {entry["name"]: entry for entry in pod["initContainers"][0]["env"]}
    assert "value" not in variables["NATS_CREDENTIALS"]
    assert "AWS_" not in MANIFEST.read_text()


@pytest.fixture
def devices() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(DEVICES.read_text())}


def test_what_the_role_devices_needs_is_valid(devices: dict[str, Any]) -> None:
    assert devices.keys() == {"Deployment", "ServiceAccount", "Service", "PodDisruptionBudget"}
    for document in devices.values():
        kubernetes_validate.validate(document, "1.29", strict=True)
    pods = devices["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget"):
        selector = devices[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= pods


def test_its_pods_are_locked_up_and_hold_no_key(devices: dict[str, Any]) -> None:
    pod = devices["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["devices"]
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(container)
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    given = {entry["name"]: entry for entry in container["env"]}
    assert all("value" not in given[name] for name in ("NATS_CREDENTIALS", "OUTAGE_WEBHOOK"))
    (mount,) = container["volumeMounts"]
    files = [given[f"DEVICES_{name}"]["value"] for name in ("CERTIFICATE", "KEY", "CLIENT_CA")]
    assert all(Path(file).parent == Path(mount["mountPath"]) for file in files)
    assert "AWS_ACCESS" not in DEVICES.read_text()


def test_its_variables_are_those_that_the_role_reads(devices: dict[str, Any]) -> None:
    role = pytest.importorskip("service.devices.settings", reason="the role itself")
    (container,) = devices["Deployment"]["spec"]["template"]["spec"]["containers"]
    given = {entry["name"] for entry in container["env"]} - {"AWS_REGION"}
    assert given <= {name.upper() for name in role.DevicesSettings.model_fields}
