"""What the CDK CLI runs (cdk/cdk.json): the stack of this deployment, checked."""

from __future__ import annotations

import subprocess
import sys

from aws_cdk import App, Environment
from aws_cdk import aws_ecr_assets as assets
from aws_cdk import aws_ecs as ecs

from cdk import nag
from cdk import settings as settings_module
from cdk.settings import Settings
from cdk.stack import BalanceStack
from control_plane.errors import ProvisioningError
from control_plane.target import ROOT
from service import __version__


def image_of(settings: Settings) -> ecs.ContainerImage:
    """Built from the project's folder, for the architecture that the tasks have, with OpenTelemetry if it is used."""
    platform = assets.Platform.LINUX_ARM64 if settings.architecture == "arm64" else assets.Platform.LINUX_AMD64
    arguments = {
        "VERSION": __version__,
        "REVISION": revision(),
        "REQUIREMENTS": "service-otel" if settings.tracing_endpoint else "service",
    }
    return ecs.ContainerImage.from_asset(str(ROOT), platform=platform, build_args=arguments, exclude=["cdk.out"])


def revision() -> str:
    """The commit that the image is made of; `unknown` outside a git repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def main() -> None:
    app = App()
    try:
        settings = settings_module.load()
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    stack = BalanceStack(
        app, settings.stack_name, settings, image=image_of(settings), env=Environment(region=settings.region)
    )
    nag.check(app, stack)
    app.synth()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
