"""Where DynamoDB is, as the AWS configuration says."""

from __future__ import annotations

import os
import re
from typing import Any

from botocore.exceptions import BotoCoreError
from botocore.session import Session

from service.runtime.errors import ServiceError


def endpoint() -> tuple[str, str]:
    """The URL and the region of DynamoDB, as botocore resolves them, with FIPS, dual stack and configured endpoints.

    Raises `ServiceError` when the AWS configuration names no region, or does not make sense.
    """
    session = Session()
    try:
        # botocore itself reads only AWS_DEFAULT_REGION and the profile.
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
        if not region:
            raise ServiceError("AWS_REGION is not set", "set it to the table's region")
        # Given credentials keep it from looking for some: nothing is called with this client.
        client: Any = session.create_client(
            "dynamodb",
            region_name=region,
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106
        )
        # What it would call: `client.meta` does not know every exception of the endpoint rules.
        url = client.generate_presigned_url("list_tables").partition("?")[0]
    except (BotoCoreError, ValueError) as error:
        said = re.sub(r"\S*@| as '.*'", "", str(error))  # an address, or what is taken for its port, may be a password
        raise ServiceError(
            f"AWS configuration: {said}", "correct it (AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL...)"
        ) from None
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ServiceError(
            "AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL has a user in its URL",
            "leave it out: the AWS SDK's credentials are used",
        )
    return url, region
