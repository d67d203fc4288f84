"""What the CDK CLI runs (cdk/cdk.json): the stack of this deployment, checked."""

from __future__ import annotations

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
    """Built from the project's folder, for the architecture that the tasks have."""
    platform = assets.Platform.LINUX_ARM64 if settings.architecture == "arm64" else assets.Platform.LINUX_AMD64
    return ecs.ContainerImage.from_asset(
        str(ROOT), platform=platform, build_args={"VERSION": __version__}, exclude=["cdk.out"]
    )


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
    main()
