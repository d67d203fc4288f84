"""The sections of `settings.toml`: one for each further role of the image, turned off unless `enabled`."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from cdk.fargate import check_size


class Section(BaseModel):
    """What every further role may be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    cpu: int = 256
    memory: int = 512

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        check_size(self.cpu, self.memory)
        return self


class QueueSection(Section):
    """[queue]"""


class ArchiveSection(Section):
    """[archive]"""
