"""A setting that would fail late fails now, in one line that names it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cdk import deployment as settings
from control_plane.errors import ProvisioningError
from deploy.fargate import MEMORY_OF_CPU
from deploy.file import FILE


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def changed(folder: Path, **changes: object) -> Path:
    given = {"region": "eu-west-1", "initials": "TT", **changes}
    lines = [line for line in FILE.read_text().splitlines() if line.partition(" = ")[0] not in given]
    path = folder / "settings.toml"
    path.write_text("\n".join([*(f"{name} = {_toml(value)}" for name, value in given.items()), *lines]))
    return path


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def test_the_file_as_it_is_needs_only_region_and_initials(tmp_path: Path) -> None:
    loaded = settings.load(changed(tmp_path))
    assert (loaded.stack_name, loaded.table_name) == ("CustomerBalance-TT", "customer-balances-TT")
    assert (loaded.tasks, loaded.architecture, loaded.network, loaded.spot) == (3, "arm64", "public", True)
    assert (loaded.cpu, loaded.memory, loaded.dashboard) == (256, 512, False)
    assert not loaded.queue.enabled
    assert not loaded.archive.enabled


@pytest.mark.parametrize("region", ["eusc-de-east-1", "us-gov-west-1", "cn-north-1", "mx-central-1", "us-iso-east-1"])
def test_a_region_of_every_partition_is_taken(tmp_path: Path, region: str) -> None:
    assert settings.load(changed(tmp_path, region=region)).region == region


def test_production_is_larger_and_what_is_set_wins(tmp_path: Path) -> None:
    loaded = settings.load(changed(tmp_path, environment="production"))
    assert (loaded.cpu, loaded.memory, loaded.network, loaded.zones) == (512, 1024, "private", 3)
    assert settings.load(changed(tmp_path, environment="production", cpu=1024, memory=2048)).cpu == 1024


def test_no_rows_are_seeded_into_a_table_that_was_there_unless_it_is_said(tmp_path: Path) -> None:
    assert settings.load(changed(tmp_path)).seed_rows == 1000
    assert settings.load(changed(tmp_path, existing_table="members")).seed_rows == 0
    assert settings.load(changed(tmp_path, existing_table="members", seed_rows=7)).seed_rows == 7


def test_every_default_that_the_file_shows_is_the_default(tmp_path: Path) -> None:
    shown = "\n".join(re.findall(r"^# (\w+ = .+)$", FILE.read_text(), flags=re.MULTILINE))
    loaded = settings.load(changed(tmp_path))
    for name, value in tomllib.loads(shown).items():
        found = getattr(loaded, name)
        assert (list(found) if isinstance(found, tuple) else found) == value, name


def test_every_default_of_a_section_that_the_file_shows_is_the_default(tmp_path: Path) -> None:
    loaded = settings.load(changed(tmp_path))
    sections = {name: value for name, value in tomllib.loads(FILE.read_text()).items() if isinstance(value, dict)}
    assert sections.keys() == {"adjustments", "queue", "archive", "devices"}
    for name in sections:
        found = getattr(loaded, name)
        assert found == type(found)(), name


def test_a_section_is_checked_too(tmp_path: Path) -> None:
    path = changed(tmp_path)
    path.write_text(path.read_text().replace("[queue]\n", "[queue]\ncpu = 300\n"))
    with pytest.raises(ProvisioningError, match=r"settings\.toml: queue: cpu: Fargate has 256, .* not 300"):
        settings.load(path)


@pytest.mark.usefixtures("bare")
def test_region_and_initials_come_from_aws_or_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProvisioningError, match=r"settings\.toml: region is empty"):
        settings.load(changed(tmp_path, region=""))
    with pytest.raises(ProvisioningError, match=r"settings\.toml: initials is empty"):
        settings.load(changed(tmp_path, initials=""))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert settings.load(changed(tmp_path, region="")).region == "us-east-1"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cpu": 300}, "cpu: Fargate has 256, 512, 1024, 2048, 4096, 8192, 16384, not 300"),
        ({"cpu": 256, "memory": 4096}, "memory: with cpu 256, Fargate has 512 to 2048 MiB, not 4096"),
        ({"cpu": 8192, "memory": 17408}, "memory: with cpu 8192"),
        ({"min_tasks": 5, "max_tasks": 4}, "max_tasks: 4 is less than min_tasks, 5"),
        ({"tasks": 20}, "tasks: 20 is not between min_tasks and max_tasks"),
        ({"tasks": 0}, "tasks: "),
        ({"architecture": "mips"}, "architecture: "),
        ({"network": "none"}, "network: "),
        ({"environment": "test"}, "environment: "),
        ({"ddb_key": "name"}, "ddb_key: name is another attribute of a client"),
        ({"ddb_balance": "id"}, "ddb_balance: id is the name of the key, ddb_key"),
        ({"ddb_key": "a'b"}, "ddb_key: "),
        ({"region": "Ireland"}, "region: AWS has no region 'Ireland'"),
        ({"region": "eu-west"}, "region: AWS has no region 'eu-west'"),
        ({"initials": "D.O."}, "initials 'D.O.' will not do"),
        ({"shutdown_timeout": 119}, "shutdown_timeout: "),
        ({"log_days": 31}, "log_days: "),
        ({"nats_url": "foo"}, "nats_url: must be one or more of nats://HOST:PORT"),
        ({"nats_url": "tls://me:secret@host"}, "nats_url: no user and no password"),
        ({"seed_rows": 2_000_000}, "seed_rows: "),
        ({"max_in_flight": 0}, "max_in_flight: "),
        ({"vpc_id": "vpc-0123456789abcdef0"}, "vpc_id: it and subnet_ids are given together"),
        ({"alert_email": "me"}, "alert_email: "),
        ({"tracing_endpoint": "collector:4318"}, "tracing_endpoint: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_what_will_not_do_is_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ProvisioningError) as caught:
        settings.load(changed(tmp_path, **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_pair_that_fargate_has_is_taken(tmp_path: Path) -> None:
    for cpu, memories in MEMORY_OF_CPU.items():
        for memory in (min(memories), max(memories)):
            assert settings.load(changed(tmp_path, cpu=cpu, memory=memory)).memory == memory


def test_an_invalid_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("region = ")
    with pytest.raises(ProvisioningError, match=r"settings\.toml: "):
        settings.load(tmp_path / "settings.toml")
    with pytest.raises(ProvisioningError, match="No such file"):
        settings.load(tmp_path / "other.toml")


@pytest.mark.usefixtures("bare")
def test_a_synthesis_assumes_what_nobody_said(tmp_path: Path) -> None:
    loaded, assumed = settings.load_or_assume(changed(tmp_path, region="", initials=""))
    assert (loaded.region, loaded.initials, assumed) == ("us-east-1", "POC", ["region", "initials"])
    loaded, assumed = settings.load_or_assume(changed(tmp_path))
    assert (loaded.region, assumed) == ("eu-west-1", [])
