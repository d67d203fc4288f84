"""Between a minimum and a maximum, on CPU and on requests in flight per task, whichever asks for more."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecs as ecs

from cdk.settings import Settings


def scale(service: ecs.FargateService, settings: Settings, in_flight: cloudwatch.IMetric) -> None:
    """`in_flight` is averaged over the tasks, each of which reports it once a minute."""
    scaling = service.auto_scale_task_count(min_capacity=settings.min_tasks, max_capacity=settings.max_tasks)
    scale_in_cooldown, scale_out_cooldown = Duration.minutes(5), Duration.minutes(1)
    scaling.scale_on_cpu_utilization(
        "Cpu",
        target_utilization_percent=settings.target_cpu,
        scale_in_cooldown=scale_in_cooldown,
        scale_out_cooldown=scale_out_cooldown,
    )
    scaling.scale_to_track_custom_metric(
        "InFlight",
        metric=in_flight,
        target_value=settings.target_in_flight,
        scale_in_cooldown=scale_in_cooldown,
        scale_out_cooldown=scale_out_cooldown,
    )
