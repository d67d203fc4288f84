"""The manifests: what Kubernetes' own schemas say, and what a reader of the README is promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/kubernetes/queue.yaml"


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
