"""The manifests: what the schemas of Kubernetes, KEDA and External Secrets say, and what a reader is promised."""

from __future__ import annotations

import functools
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.settings import Settings
from local.process import ROOT
from service import HEALTH_PORT
from service.__main__ import ROLES as IN_THE_IMAGE
from tests.support.deploy.kubernetes import autoscaler, validate
from tests.support.deploy.kustomize import (
    FOLDER,
    OVERLAYS,
    Resource,
    containers,
    environment,
    of_kind,
    overlay,
    pods,
    render,
    roles,
)

README = (FOLDER / "README.md").read_text()
ROLES = {"poc": {"customer", "queue"}, "production": {"customer", "archive", "queue", "devices"}}
SETTINGS = {role: pkgutil.resolve_name(where).SETTINGS for role, where in IN_THE_IMAGE.items()}
SECRETS = {
    name.upper()
    for settings in SETTINGS.values()
    for name, field in settings.model_fields.items()
    if "SecretStr" in str(field.annotation)
}

every = pytest.mark.parametrize("name", [*OVERLAYS, "sqs"])


@pytest.fixture(scope="session")
def with_sqs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Resource, ...]:
    """Return production with what its kustomization has in comments, as a reader turns it on."""
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(FOLDER, folder)
    file = folder / "overlays" / "production" / "kustomization.yaml"
    text, turned_on = re.subn(r"(?m)^  # - (\.\./)", r"  - \1", file.read_text())
    assert turned_on == 2
    file.write_text(text)
    return render(file.parent)


@pytest.fixture
def resources(request: pytest.FixtureRequest, name: str) -> tuple[Resource, ...]:
    return tuple(request.getfixturevalue("with_sqs")) if name == "sqs" else overlay(name)


@every
def test_every_resource_is_valid(resources: tuple[Resource, ...]) -> None:
    for resource in resources:
        validate(resource)
        is_cluster_wide = resource["kind"] == "Namespace"
        assert resource["metadata"].get("namespace") == (None if is_cluster_wide else "customer-balance")


@pytest.mark.parametrize(
    ("kind", "break_it"),
    [
        ("Deployment", lambda spec: spec.update(replica=1)),
        ("ScaledObject", lambda spec: spec.update(coolDownPeriod=60)),
        ("ScaledObject", lambda spec: spec["triggers"][0].pop("type")),
        ("ScaledObject", lambda spec: spec["advanced"]["scalingModifiers"].update(formula=4)),
        ("SecretStore", lambda spec: spec["provider"]["aws"].pop("region")),
        ("ExternalSecret", lambda spec: spec["data"][0]["remoteRef"].update(name="DO")),
        ("TriggerAuthentication", lambda spec: spec["podIdentity"].pop("provider")),
        ("ScaledObject", lambda spec: autoscaler(spec)["behavior"]["scaleDown"].update(window=60)),
    ],
)
def test_what_is_not_valid_fails_the_check(
    with_sqs: tuple[Resource, ...], kind: str, break_it: Callable[[Any], object]
) -> None:
    """So the check above checks."""
    resource = json.loads(json.dumps(next(iter(of_kind(with_sqs, kind).values()))))
    validate(resource)
    break_it(resource["spec"])
    with pytest.raises(jsonschema.ValidationError):
        validate(resource)


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_overlay_runs_its_roles(resources: tuple[Resource, ...], name: str) -> None:
    assert {role for role, _ in roles(resources)} == ROLES[name]


@functools.cache
def variables(role: str) -> tuple[set[str], set[str]]:
    """Return the variables that a role's `--help` lists, and those of them that it requires."""
    command = [sys.executable, "-m", "service", role, "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"(?m)^  ([A-Z][A-Z_]+) (.*)$", told)
    return {name for name, _ in lines}, {name for name, meaning in lines if meaning.endswith("(required)")}


@every
def test_each_variable_is_one_that_the_role_reads(resources: tuple[Resource, ...]) -> None:
    for role, container in roles(resources):
        listed, required = variables(role)
        given = environment(resources, container)
        assert given.keys() - {"AWS_REGION"} <= listed, role
        assert required <= given.keys(), role


@every
def test_the_roles_take_the_values(resources: tuple[Resource, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for role, container in roles(resources):
        with monkeypatch.context() as patch:
            for name, value in environment(resources, container).items():
                if isinstance(value, str):
                    patch.setenv(name, value)
            assert SETTINGS[role]().log_format == "json"


@every
def test_no_secret_stands_in_a_manifest(resources: tuple[Resource, ...]) -> None:
    assert {"NATS_CREDENTIALS", "OUTAGE_WEBHOOK"} <= SECRETS
    assert not of_kind(resources, "Secret")
    for _, container in roles(resources):
        for name, value in environment(resources, container).items():
            assert name not in SECRETS or set(value) == {"secretKeyRef"}, name
    text = yaml.safe_dump_all(resources)
    assert not re.search(r"AWS_ACCESS|AWS_SECRET|AKIA[A-Z0-9]{16}|-----BEGIN|\beyJ\w{20}|\bS[UAON][A-Z2-7]{50}", text)


@every
def test_every_pod_is_locked_up(resources: tuple[Resource, ...]) -> None:
    """As the namespace enforces: https://kubernetes.io/docs/concepts/security/pod-security-standards/ ."""
    (namespace,) = of_kind(resources, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(resources).values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}


@every
def test_every_role_is_probed_and_has_time_to_drain(resources: tuple[Resource, ...]) -> None:
    for role, container in roles(resources):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["health"] == HEALTH_PORT
        paths = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
        assert {probe: found["path"] for probe, found in paths.items()} == {
            "startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz",
        }, role  # fmt: skip
        assert {found["port"] for found in paths.values()} == {"health"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        (pod,) = [pod for pod in pods(resources).values() if container in containers(pod)]
        drain_s = float(environment(resources, container)["SHUTDOWN_TIMEOUT"])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain_s + 5


@every
def test_the_sidecar_is_a_native_one(resources: tuple[Resource, ...]) -> None:
    """Ready before the handler starts, and stopped after it."""
    (sidecar,) = pods(resources)["handler"]["spec"]["initContainers"]
    assert (sidecar["restartPolicy"], sidecar["args"]) == ("Always", ["queue"])


def test_a_sidecar_on_sqs_needs_no_credentials_for_nats(with_sqs: tuple[Resource, ...]) -> None:
    (sidecar,) = pods(with_sqs)["handler"]["spec"]["initContainers"]
    given = environment(with_sqs, sidecar)
    assert given["QUEUE"].startswith("sqs:")
    assert "NATS_CREDENTIALS" not in given


def test_the_files_of_mutual_tls_are_mounted() -> None:
    resources = overlay("production")
    (container,) = pods(resources)["devices"]["spec"]["containers"]
    given = environment(resources, container)
    (mount,) = container["volumeMounts"]
    files = [given[f"DEVICES_{name}"] for name in ("CERTIFICATE", "KEY", "CLIENT_CA")]
    assert all(Path(file).parent == Path(mount["mountPath"]) for file in files)
    secret = of_kind(resources, "ExternalSecret")["devices-tls"]
    assert {Path(file).name for file in files} == {entry["secretKey"] for entry in secret["spec"]["data"]}


def selector(resource: Resource) -> Any:
    spec = resource["spec"]
    found = spec["podSelector"] if resource["kind"] == "NetworkPolicy" else spec["selector"]
    return found.get("matchLabels", found)


@every
def test_what_selects_pods_selects_some(resources: tuple[Resource, ...]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(resources).values()]
    for kind in ("PodDisruptionBudget", "Service", "NetworkPolicy", "Deployment"):
        for resource in of_kind(resources, kind).values():
            if "matchExpressions" in (wanted := selector(resource)):
                (rule,) = wanted["matchExpressions"]
                assert any(found[rule["key"]] in rule["values"] for found in labels)
            else:
                assert any(wanted.items() <= found.items() for found in labels), resource["metadata"]["name"]


@every
def test_what_is_referred_to_is_there(resources: tuple[Resource, ...], name: str) -> None:
    """Secrets are made by External Secrets, or by the commands of the README."""
    made = set(of_kind(resources, "ExternalSecret")) if name != "poc" else set()
    made |= set(re.findall(r"kubectl create secret generic (?:-n \S+ )?(\S+)", README))
    for pod in pods(resources).values():
        assert pod["spec"]["serviceAccountName"] in of_kind(resources, "ServiceAccount")
        text = json.dumps(pod)
        assert set(re.findall(r'"secretKeyRef": {[^}]*"name": "([^"]+)"', text)) <= made
        assert set(re.findall(r'"secretName": "([^"]+)"', text)) <= made
    for secret in of_kind(resources, "ExternalSecret").values():
        assert secret["spec"]["secretStoreRef"]["name"] in of_kind(resources, "SecretStore")


@every
def test_the_network_lets_a_role_reach_what_it_must(resources: tuple[Resource, ...]) -> None:
    """The ports that the stack's security group opens, names, and the agent that gives credentials.

    https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
    """
    policy = of_kind(resources, "NetworkPolicy")["roles"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    anywhere = {
        (port["protocol"], port["port"]) for rule in policy["egress"] if "to" not in rule for port in rule["ports"]
    }
    (maps,) = [data["data"] for name, data in of_kind(resources, "ConfigMap").items() if name.startswith("shared-")]
    settings = Settings(region=maps["AWS_REGION"], initials="DO", nats_url=maps["NATS_URL"])
    assert anywhere == {("TCP", port) for port in settings.egress_ports} | {("UDP", 53), ("TCP", 53)}
    (agent,) = [rule for rule in policy["egress"] if "to" in rule]
    assert agent["to"] == [{"ipBlock": {"cidr": "169.254.170.23/32"}}]
    assert agent["ports"] == [{"protocol": "TCP", "port": 80}]
    (scraped,) = policy["ingress"]
    assert scraped["from"], "not from anywhere"
    assert scraped["ports"] == [{"protocol": "TCP", "port": "health"}]


@every
def test_one_pod_less_at_a_time(resources: tuple[Resource, ...]) -> None:
    budget = of_kind(resources, "PodDisruptionBudget")["customer"]["spec"]
    assert budget["maxUnavailable"] == 1
    deployment = of_kind(resources, "Deployment")["customer"]["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert {rule["topologyKey"] for rule in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
