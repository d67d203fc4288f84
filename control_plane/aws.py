"""The control plane's use of AWS: the caller's initials, and the secret that the deployment reads."""

from __future__ import annotations

import base64
import os
import re
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from control_plane.errors import ProvisioningError, UsageError
from deploy.file import FILE, SettingsError, read

SECRET: Final = "NATSCreds"  # noqa: S105  its name
DEPLOYMENT: Final = FILE
_INITIALS: Final = re.compile(r"[A-Z][A-Z0-9]{0,7}")


_GONE: Final = frozenset({"ResourceNotFoundException", "InvalidRequestException"})
"""Error codes for a secret that does not exist or is being deleted."""


def secret_name(initials: str, user: str = "") -> str:
    """Return the name of the secret for an optional role's user; without `user`, for the service."""
    return f"{initials}/{SECRET}-{user}" if user else f"{initials}/{SECRET}"


def check_initials(initials: str) -> str:
    """Return the initials in upper case. Raises `UsageError` if they are invalid."""
    if not _INITIALS.fullmatch(initials.upper()):
        raise UsageError(f"initials {initials!r} will not do; give one to eight letters, for example DO")
    return initials.upper()


def configured_region() -> str | None:
    """Return the region in the deployment's settings, else the environment's, else the profile's."""
    return _deployment_region() or os.environ.get("AWS_REGION") or _session().region_name


def _deployment_region() -> str | None:
    try:
        region = read(DEPLOYMENT).get("region")
    except SettingsError as error:
        raise ProvisioningError(str(error)) from None
    return region if isinstance(region, str) else None


def caller_initials() -> str | None:
    """Derive initials from the AWS caller's name (`.../david.oram@example.com`, `DavidOram`: DO); None without one."""
    try:
        arn = _client("sts").get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError):
        return None
    return initials_of(arn)


def initials_of(arn: str) -> str | None:
    """Derive initials from an ARN, whose last part is the caller's name.

    https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    """
    name = arn.rpartition("/")[2].partition("@")[0]
    words = [word for word in re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) if word]
    initials = "".join(word[0] for word in words).upper()[:8]
    return initials or None


def push_secret(initials: str, creds: str, user: str = "") -> str:
    """Put a `.creds` text, base64-encoded, into the secret that the deployment reads; return the secret's ARN.

    Raises `ProvisioningError` with AWS's reason.
    """
    client = _client("secretsmanager")
    name, value = secret_name(initials, user), base64.b64encode(creds.encode()).decode()
    try:
        try:
            arn: str = client.create_secret(Name=name, SecretString=value)["ARN"]
        except ClientError as error:
            if not _is_there(error):
                raise
            described = client.describe_secret(SecretId=name)
            if "DeletedDate" in described:
                client.restore_secret(SecretId=name)
            arn = client.put_secret_value(SecretId=name, SecretString=value)["ARN"]
    except (BotoCoreError, ClientError) as error:
        raise _fault(f"secret {name}", error) from None
    return arn


def secret_creds(initials: str) -> str | None:
    """Return the `.creds` text in the secret; None if the secret does not exist or holds something else."""
    name = secret_name(initials)
    try:
        value = _client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
        return base64.b64decode(value, validate=True).decode()
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] in _GONE:
            return None
        raise _fault(f"secret {name}", error) from None
    except (KeyError, ValueError):
        return None


def secret_arn(initials: str, user: str = "") -> str | None:
    """Return the secret's complete ARN; None if it does not exist or is being deleted."""
    name = secret_name(initials, user)
    try:
        described = _client("secretsmanager").describe_secret(SecretId=name)
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise _fault(f"secret {name}", error) from None
    return None if "DeletedDate" in described else str(described["ARN"])


def delete_secret(initials: str, user: str = "") -> bool:
    """Delete the secret at once; return whether it existed."""
    client = _client("secretsmanager")
    name = secret_name(initials, user)
    try:
        client.describe_secret(SecretId=name)
        client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException":
            return False
        raise _fault(f"secret {name}", error) from None
    return True


def _is_there(error: ClientError) -> bool:
    """Return whether the name is taken, perhaps by a secret that is being deleted."""
    return error.response["Error"]["Code"] in {"ResourceExistsException", "InvalidRequestException"}


def _fault(what: str, error: Exception) -> ProvisioningError:
    reason = error.response["Error"].get("Message", str(error)) if isinstance(error, ClientError) else str(error)
    said = " ".join(reason.split())
    return ProvisioningError(f"{what}: AWS says {said}; see that AWS_PROFILE and AWS_REGION are right")


def _client(service: Any) -> Any:
    try:
        # boto3 itself reads only AWS_DEFAULT_REGION and the profile.
        return _session(region_name=configured_region()).client(service)
    except BotoCoreError as error:
        raise _fault(f"AWS {service}", error) from None


def _session(**options: Any) -> Any:
    """Import boto3 only when needed: the import is a fifth of a command's start time, and few commands use AWS."""
    import boto3  # noqa: PLC0415

    return boto3.Session(**options)
