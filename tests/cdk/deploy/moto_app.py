"""The stack as moto's server can take it: an image by name, and no bootstrap to rely on.

Only `main` imports the CDK, which starts Node: pytest imports this file in each of its workers.
"""

from __future__ import annotations

from deploy.sections import QueueSection
from deploy.settings import Settings

IMAGE = "customer-balance:test"
HANDLER = "handler:test"
REGION = "eu-west-1"


def main() -> None:
    from aws_cdk import App, Environment, LegacyStackSynthesizer
    from aws_cdk import aws_ecs as ecs

    from cdk.stack.stack import BalanceStack

    app = App(builtin_cloud_formation_validation=False)  # a test of its own tries it
    queue = QueueSection(enabled=True, image=HANDLER, source="sqs", tasks=2, max_deliver=4)
    settings = Settings(region=REGION, initials="MT", dashboard=True, queue=queue)
    image = ecs.ContainerImage.from_registry(IMAGE)
    environment = Environment(region=REGION, account="123456789012")
    BalanceStack(app, settings.stack_name, settings, image=image, synthesizer=LegacyStackSynthesizer(), env=environment)
    app.synth()


if __name__ == "__main__":
    main()
