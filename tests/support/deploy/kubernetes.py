"""What an API server takes, by the schemas of Kubernetes, KEDA and External Secrets."""

from __future__ import annotations

import json
from typing import Any, Final

import jsonschema
import kubernetes_validate

from local.process import ROOT
from tests.support.deploy.kustomize import Resource

CRDS: Final = ROOT / "tests" / "deploy" / "crds"
"""Schemas of custom resources; each file says where it is from."""
OLDEST: Final = "1.29"


def strict(schema: Any) -> Any:
    """Return a schema that takes no field that it does not name, as `kubectl apply` takes none."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(part) for key, part in schema.items()}
    if "type" in schema and "properties" in schema:
        found.setdefault("additionalProperties", False)
    return found


def autoscaler(spec: Any) -> Any:
    """Return what a ScaledObject hands to the HorizontalPodAutoscaler that KEDA makes."""
    return spec["advanced"]["horizontalPodAutoscalerConfig"]


def validate(resource: Resource) -> None:
    """Raise a `jsonschema.ValidationError` for what an API server of Kubernetes 1.29 or of today would refuse."""
    group, _, version = resource["apiVersion"].rpartition("/")
    file = CRDS / f"{group}-{version}-{resource['kind']}.json"
    if not file.exists():
        _validate(resource)
        return
    schema = strict(json.loads(file.read_text())["schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.Draft202012Validator(schema).validate(resource)
    _validate({"apiVersion": "v1", "kind": "ConfigMap", "metadata": resource["metadata"]})
    if resource["kind"] == "ScaledObject":
        target = {"kind": "Deployment", "name": resource["spec"]["scaleTargetRef"]["name"]}
        spec = {"maxReplicas": 1, "scaleTargetRef": target, **autoscaler(resource["spec"])}
        _validate({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec})


def _validate(resource: Resource) -> None:
    for kubernetes in (OLDEST, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, kubernetes, strict=True)
