"""The AWS SDK's configuration, with the variable that botocore itself does not read."""

from __future__ import annotations

import os

from botocore.session import Session


def aws_session(otherwise: str | None = None) -> Session:
    """Return botocore's session in AWS_REGION's region: botocore reads only AWS_DEFAULT_REGION and the profile.

    `otherwise` is the region where none of them names one. What gives credentials (STS) is called in it too.
    """
    session = Session()
    if region := os.environ.get("AWS_REGION") or session.get_config_variable("region") or otherwise:
        session.set_config_variable("region", region)
    return session
