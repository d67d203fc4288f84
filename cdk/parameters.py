"""The template's parameters."""

from __future__ import annotations

from typing import Final

SECRET_PARAMETER: Final = "NatsSecretArn"  # noqa: S105  its name
ARCHIVE_SECRET_PARAMETER: Final = "ArchiveNatsSecretArn"  # noqa: S105  its name
QUEUE_SECRET_PARAMETER: Final = "QueueNatsSecretArn"  # noqa: S105  its name
FIRST_PARAMETER: Final = "FirstDeployment"
ARCHIVE_FIRST_PARAMETER: Final = "ArchiveFirstDeployment"
