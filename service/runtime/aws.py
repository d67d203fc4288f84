"""The AWS SDK's configuration, with AWS_REGION, which botocore itself does not read."""

from __future__ import annotations

import os

from botocore.session import Session


def aws_session(otherwise: str | None = None) -> Session:
    """Return a botocore session for AWS_REGION: botocore itself reads only AWS_DEFAULT_REGION and the profile.

    `otherwise` is the region if none of these names one. STS, which may supply credentials, is called there too.
    """
    session = Session()
    if region := os.environ.get("AWS_REGION") or session.get_config_variable("region") or otherwise:
        session.set_config_variable("region", region)
    return session
