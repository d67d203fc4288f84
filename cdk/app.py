"""The program that the CDK CLI runs (cdk/cdk.json): it creates and checks the stack of this deployment."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from aws_cdk import App, Environment
from aws_cdk import aws_ecr_assets as assets
from aws_cdk import aws_ecs as ecs

from cdk import deployment, nag
from cdk.stack.stack import BalanceStack
from control_plane.errors import ProvisioningError
from control_plane.target import ROOT
from deploy.settings import Settings
from service import __version__

IMAGE_PARTS: Final = ("Dockerfile", ".dockerignore", "requirements/service*.txt", ":(glob)service/**/*.py")
"""What goes into the image: the builder's files (.dockerignore) and instructions."""


def image_of(settings: Settings, architecture: str) -> ecs.ContainerImage:
    """Return the image built from the project's folder for an architecture, with OpenTelemetry if it is used."""
    platform = assets.Platform.LINUX_ARM64 if architecture == "arm64" else assets.Platform.LINUX_AMD64
    arguments = {
        "VERSION": __version__,
        "REVISION": revision(),
        "REQUIREMENTS": "service-otel" if settings.tracing_endpoint else "service",
    }
    return ecs.ContainerImage.from_asset(str(ROOT), platform=platform, build_args=arguments, exclude=["cdk.out"])


def revision() -> str:
    """Return the last commit that changed what the image is built from; `unknown` outside a git repository.

    So any other commit leaves the image, and the running tasks, unchanged.
    """
    try:
        commit = _git("log", "-1", "--abbrev=12", "--format=%h", "--", *IMAGE_PARTS)
        changed = _git("status", "--porcelain", "--", *IMAGE_PARTS)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit or "unknown"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def main() -> None:
    app = App()
    try:
        settings = deployment.load()
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    stack = BalanceStack(
        app,
        settings.stack_name,
        settings,
        image=image_of(settings, settings.architecture),
        queue_image=image_of(settings, settings.queue_architecture),
        env=Environment(region=settings.region),
    )
    nag.check(app, stack)
    app.synth()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
