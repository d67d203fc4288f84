from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdk import __main__ as cdk_main
from cdk import checks, deployed
from cdk import deployment as settings_module
from control_plane import aws
from control_plane.files import Files
from deploy.settings import Settings
from tests.cdk.deploy.deployment import Deployment
from tests.support.world import World


@pytest.fixture
def deployment(world: World, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ENDPOINT_URL": moto, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    chosen = tmp_path / "settings.toml"
    chosen.write_text('region = "eu-north-1"')
    monkeypatch.setattr(aws, "DEPLOYMENT", chosen)
    made = Deployment(
        Settings(region="eu-north-1", initials="DP", nats_url=world.nats_url, tasks=2, min_tasks=1), tmp_path
    )
    monkeypatch.setattr(settings_module, "load", lambda: made.settings)
    monkeypatch.setattr(cdk_main, "CONFIG", tmp_path)
    monkeypatch.setattr(cdk_main, "_cdk", made.cdk)
    monkeypatch.setattr(cdk_main, "ROLL_OUT_S", 20.0)
    monkeypatch.setattr(checks, "docker", lambda _: None)
    files = Files(tmp_path)
    for user in ("service", "client"):
        files.write_creds(user, world.creds(user))
    aws.delete_secret("DP")
    yield made
    deployed.client("cloudformation", made.settings).delete_stack(StackName=made.settings.stack_name)
    aws.delete_secret("DP")
