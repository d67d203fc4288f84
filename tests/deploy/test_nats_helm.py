"""The Helm values for NATS: nats-server takes what the chart makes of them, and their bounds are `nats-server.conf`'s.

The chart writes JSON: `merge` goes over its own part, `<< >>` is left without quotation marks, and a key that ends in
`$include` becomes an include.
https://github.com/nats-io/k8s/blob/main/helm/charts/nats/values.yaml
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from local.servers.nats_server import binary
from operations import operator
from tests.deploy.test_nats import CONFIG, FOLDER

VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "helm.yaml").read_text())
GIVEN = VALUES["config"]


def tls(section: dict[str, Any], home: Path, *, with_ca: bool = False) -> dict[str, Any]:
    assert section["tls"]["secretName"] == "nats-tls"
    files = {"cert_file": str(home / "tls.crt"), "key_file": str(home / "tls.key")}
    return {**files, **({"ca_file": str(home / "ca.crt")} if with_ca else {}), **section["tls"]["merge"]}


def as_the_chart_writes_it(home: Path) -> str:
    stores = GIVEN["jetstream"]
    tree = {
        "server_name": "nats-0",
        "port": 4222,
        "tls": tls(GIVEN["nats"], home),
        "http_port": GIVEN["monitor"]["port"],
        "cluster": {
            "name": GIVEN["cluster"]["name"], "port": 6222, "tls": tls(GIVEN["cluster"], home, with_ca=True),
            "routes": [f"tls://nats-{number}.nats-headless:6222" for number in range(GIVEN["cluster"]["replicas"])],
        },
        "mqtt": {"port": GIVEN["mqtt"]["port"], "tls": tls(GIVEN["mqtt"], home), **GIVEN["mqtt"]["merge"]},
        "jetstream": {
            "store_dir": str(home / "data"),
            "max_file_store": f"<< {stores['fileStore']['maxSize']} >>",
            "max_memory_store": f"<< {stores['memoryStore']['maxSize']} >>",
        },
        "resolver": {"dir": str(home / "resolver"), **GIVEN["resolver"]["merge"]},
        **GIVEN["merge"],
    }  # fmt: skip
    text = re.sub(r'"<< (.*?) >>"', r"\1", json.dumps(tree, indent=1, sort_keys=True))
    return re.sub(r'"\w*\$include": "(.*?)"', r"include \1", text)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the chart's folder of a pod, with what the README puts beside it."""
    authority = trustme.CA()
    leaf = authority.issue_cert("nats.example.com", "*.nats-headless")
    folder = tmp_path / "nats-config"
    folder.mkdir()
    leaf.private_key_pem.write_to_path(folder / "tls.key")
    leaf.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    operator.make(tmp_path / "nats-operator", "devices")
    return folder


def check(home: Path, text: str) -> subprocess.CompletedProcess[str]:
    config = home / "nats.conf"
    config.write_text(text)
    return subprocess.run([binary(), "-t", "-c", str(config)], capture_output=True, text=True, check=False)


def test_nats_server_takes_them(home: Path) -> None:
    said = check(home, as_the_chart_writes_it(home))
    assert said.returncode == 0, said.stderr
    assert "is valid" in said.stderr


def test_a_word_that_the_server_does_not_know_fails_the_check(home: Path) -> None:
    assert check(home, as_the_chart_writes_it(home).replace("stream_replicas", "stream_replica")).returncode != 0


def test_they_say_what_the_configuration_of_machines_says() -> None:
    for name, value in {**GIVEN["mqtt"]["merge"], **GIVEN["resolver"]["merge"], **GIVEN["merge"]}.items():
        if not name.endswith("$include"):
            said = re.search(rf'(?m)^\s*{name}: "?([^"\n]+)"?$', CONFIG)
            assert said, name
            assert said[1] == (str(value).lower() if isinstance(value, bool) else str(value).strip("<> ")), name
    for section in ("nats", "mqtt", "cluster"):
        assert f"timeout: {GIVEN[section]['tls']['merge']['timeout']}\n" in CONFIG
    assert f'"0.0.0.0:{GIVEN["mqtt"]["port"]}"' in CONFIG
    assert f'name: "{GIVEN["cluster"]["name"]}"' in CONFIG
    assert GIVEN["cluster"]["replicas"] == GIVEN["mqtt"]["merge"]["stream_replicas"] == 3
    assert GIVEN["cluster"]["tls"]["merge"]["verify"]


def test_the_operator_is_mounted_where_it_is_included() -> None:
    (mount,) = [patch["value"] for patch in VALUES["container"]["patch"]]
    (volume,) = [patch["value"] for patch in VALUES["podTemplate"]["patch"]]
    assert mount["name"] == volume["name"]
    included = Path("/etc/nats-config") / GIVEN["merge"]["zz$include"]
    assert included.resolve() == Path(mount["mountPath"]) / operator.CONFIG
    readme = (FOLDER / "README.md").read_text()
    assert f"configmap -n nats {volume['configMap']['name']} --from-file={operator.CONFIG}" in readme


def test_nobody_outside_of_the_pods_network_reaches_the_monitoring_port() -> None:
    assert VALUES["service"]["ports"]["monitor"] == {"enabled": False}
