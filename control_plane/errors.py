"""What can go wrong while provisioning, as the person who asked for it needs to hear it."""

from __future__ import annotations


class ProvisioningError(Exception):
    """What could not be done, why, and what to do: one line, without a token or a seed."""


class UsageError(ProvisioningError):
    """An argument that cannot be meant."""
