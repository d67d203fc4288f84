"""Errors of provisioning, with messages for the person who runs it."""

from __future__ import annotations


class ProvisioningError(Exception):
    """Provisioning failed; the message is one line: what failed, why, what to do. It contains no token and no seed."""


class UsageError(ProvisioningError):
    """An invalid command-line argument."""
