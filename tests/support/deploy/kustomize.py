"""Kubernetes manifests, rendered by kustomize itself."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from local.process import ROOT

FOLDER: Final = ROOT / "deploy" / "kubernetes"
OVERLAYS: Final = tuple(sorted(path.name for path in (FOLDER / "overlays").iterdir()))

Resource = dict[str, Any]


@functools.cache
def render(folder: Path) -> tuple[Resource, ...]:
    """Return the resources of a kustomization. Skip the test on a machine without kubectl and kustomize."""
    commands = [command for command in (("kubectl", "kustomize"), ("kustomize", "build")) if shutil.which(command[0])]
    if not commands:
        pytest.skip("neither kubectl (Debian 13: kubernetes-client) nor kustomize is installed")
    done = subprocess.run([*commands[0], str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize warns"
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[Resource, ...]:
    return render(FOLDER / "overlays" / name)


def of_kind(resources: Sequence[Resource], kind: str) -> dict[str, Resource]:
    """Return the resources of a kind, by name."""
    return {found["metadata"]["name"]: found for found in resources if found["kind"] == kind}


def pods(resources: Sequence[Resource]) -> dict[str, Resource]:
    """Return the pod template of each Deployment, by the Deployment's name."""
    return {name: found["spec"]["template"] for name, found in of_kind(resources, "Deployment").items()}


def containers(pod: Resource) -> list[Resource]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def roles(resources: Sequence[Resource]) -> Iterator[tuple[str, Resource]]:
    """Yield each container that runs a role of the image, with the role."""
    for pod in pods(resources).values():
        for container in containers(pod):
            if container.get("args"):
                yield container["args"][0], container


def environment(resources: Sequence[Resource], container: Resource) -> dict[str, Any]:
    """Return a container's variables, as Kubernetes sets them: name -> value, or where it comes from."""
    found: dict[str, Any] = {}
    maps = of_kind(resources, "ConfigMap")
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", ())}
