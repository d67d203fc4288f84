"""The template's parameters: the secrets with NATS credentials, and whether a deployment creates a service."""

from __future__ import annotations

from typing import Final

from deploy.settings import Settings
from service.contracts.archive import USER as ARCHIVE_USER
from service.contracts.devices import USER as DEVICES_USER
from service.contracts.queue import USER as QUEUE_USER

SECRET_PARAMETERS: Final = {
    "": "NatsSecretArn",
    ARCHIVE_USER: "ArchiveNatsSecretArn",
    QUEUE_USER: "QueueNatsSecretArn",
    DEVICES_USER: "DevicesNatsSecretArn",
}
"""NATS user of a role -> parameter with its secret's ARN; the empty name is the role `customer`."""

FIRST_PARAMETER: Final = "FirstDeployment"
ARCHIVE_FIRST_PARAMETER: Final = "ArchiveFirstDeployment"
DEVICES_FIRST_PARAMETER: Final = "DevicesFirstDeployment"


def users(settings: Settings) -> tuple[str, ...]:
    """Return the NATS users of the deployment's roles, in the order of the parameters."""
    has = {
        "": True,
        ARCHIVE_USER: settings.archive.enabled,
        QUEUE_USER: settings.queue.enabled and settings.queue.source == "jetstream",
        DEVICES_USER: settings.devices.enabled,
    }
    return tuple(user for user in SECRET_PARAMETERS if has[user])


def firsts(settings: Settings) -> dict[str, str]:
    """Return the parameters that say whether a deployment creates a service -> prefix of that service's logical id.

    The role `devices` has one only if it protects a table: no autoscaling sets its number of tasks.
    """
    devices, is_kept = settings.devices, settings.environment == "production"
    has = {
        (FIRST_PARAMETER, "Tasks"): True,
        (ARCHIVE_FIRST_PARAMETER, "Archive"): settings.archive.enabled,
        (DEVICES_FIRST_PARAMETER, "Devices"): devices.enabled and is_kept and not devices.existing_table,
    }
    return {parameter: service for (parameter, service), is_there in has.items() if is_there}
