"""Where DynamoDB is, as the AWS configuration says."""

from __future__ import annotations

import os

from botocore.exceptions import BotoCoreError
from botocore.session import Session

from service.runtime.errors import ServiceError


def endpoint() -> tuple[str, str]:
    """The URL and the region of DynamoDB.

    Raises `ServiceError` when the AWS configuration names no region.
    """
    session = Session()
    try:
        # botocore itself reads only AWS_DEFAULT_REGION and the profile.
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    except BotoCoreError as error:
        raise ServiceError(f"AWS configuration: {error}", "correct AWS_PROFILE or unset it") from None
    if not region:
        raise ServiceError("AWS_REGION is not set", "set it to the table's region")
    url = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:  # botocore knows the partitions' domains
        url = "https://" + session.get_component("endpoint_resolver").construct_endpoint("dynamodb", region)["hostname"]
    return url, region
