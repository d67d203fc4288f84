"""What the control plane needs of AWS: whose initials, and the secret that the deployment reads."""

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
"""There is none, or it is being deleted."""


def secret_name(initials: str, user: str = "") -> str:
    """Of a further role's user; the service's own without one."""
    return f"{initials}/{SECRET}-{user}" if user else f"{initials}/{SECRET}"


def check_initials(initials: str) -> str:
    """Raises `ProvisioningError` when they are none."""
    if not _INITIALS.fullmatch(initials.upper()):
        raise UsageError(f"initials {initials!r} will not do; give one to eight letters, for example DO")
    return initials.upper()


def configured_region() -> str | None:
    """The region of the deployment's settings; where they leave it open, the environment's, then the profile's."""
    return _deployment_region() or os.environ.get("AWS_REGION") or _session().region_name


def _deployment_region() -> str | None:
    try:
        region = read(DEPLOYMENT).get("region")
    except SettingsError as error:
        raise ProvisioningError(str(error)) from None
    return region if isinstance(region, str) else None


def caller_initials() -> str | None:
    """From the AWS caller's name: `.../david.oram@example.com`, `DavidOram` and `david-oram` are DO; None without."""
    try:
        arn = _client("sts").get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError):
        return None
    return initials_of(arn)


def initials_of(arn: str) -> str | None:
    """https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html: the name is the last part."""
    name = arn.rpartition("/")[2].partition("@")[0]
    words = [word for word in re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) if word]
    initials = "".join(word[0] for word in words).upper()[:8]
    return initials or None


def push_secret(initials: str, creds: str, user: str = "") -> str:
    """Put a `.creds` text, in base64, where the deployment reads it; the secret's ARN.

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
    """The `.creds` text in the secret; None when there is no secret, or it holds none."""
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
    """The complete ARN of the secret; None when there is none, or it is being deleted."""
    name = secret_name(initials, user)
    try:
        described = _client("secretsmanager").describe_secret(SecretId=name)
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise _fault(f"secret {name}", error) from None
    return None if "DeletedDate" in described else str(described["ARN"])


def delete_secret(initials: str, user: str = "") -> bool:
    """Delete the secret, at once; whether there was one."""
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
    """The name is taken, or is that of a secret that is being deleted."""
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
    """Imported when it is needed: it takes a fifth of what a command takes to start, and few commands ask AWS."""
    import boto3  # noqa: PLC0415

    return boto3.Session(**options)
