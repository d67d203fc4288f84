"""Scaling between a minimum and a maximum, by the highest of: CPU, requests in flight, time without credit."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_ecs as ecs

from cdk.observability.dashboard import Observability
from deploy.scaling_rules import SCALE_IN_COOLDOWN_S, SCALE_OUT_COOLDOWN_S, TARGET_WITHOUT_CREDIT_PERCENT
from deploy.settings import Settings

SCALE_IN_COOLDOWN: Final = Duration.seconds(SCALE_IN_COOLDOWN_S)
SCALE_OUT_COOLDOWN: Final = Duration.seconds(SCALE_OUT_COOLDOWN_S)


def scale(service: ecs.FargateService, settings: Settings, seen: Observability) -> None:
    """Scale the service. Its own metrics are averages over the tasks, each of which reports once a minute."""
    scaling = service.auto_scale_task_count(min_capacity=settings.min_tasks, max_capacity=settings.max_tasks)
    scaling.scale_on_cpu_utilization(
        "Cpu",
        target_utilization_percent=settings.target_cpu,
        scale_in_cooldown=SCALE_IN_COOLDOWN,
        scale_out_cooldown=SCALE_OUT_COOLDOWN,
    )
    targets = {"InFlight": settings.target_in_flight, "TimeWithoutCredit": TARGET_WITHOUT_CREDIT_PERCENT}
    for name, target in targets.items():
        scaling.scale_to_track_custom_metric(
            name,
            metric=seen.metrics.own(name, "Average"),
            target_value=target,
            scale_in_cooldown=SCALE_IN_COOLDOWN,
            scale_out_cooldown=SCALE_OUT_COOLDOWN,
        )
