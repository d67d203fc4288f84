"""Find region and endpoint for a queue's URL.

https://docs.aws.amazon.com/general/latest/gr/sqs-service.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from botocore.session import Session

_LEGACY_OF_US_EAST_1: Final = "queue.amazonaws.com"


@dataclass(frozen=True)
class Place:
    region: str | None = None
    """None: the host name does not show it."""
    endpoint_url: str | None = None
    """None: the region's default, as the AWS configuration chooses it (FIPS, dual stack)."""


def place_of(url: str) -> Place:
    """Return where to call the queue of this URL.

    AWS's domains and region names come from botocore's `partitions`. A host may be regional, FIPS, dual stack, a VPC
    endpoint, or the legacy form, for which the regional endpoint is used. Any other host is called as given.
    Raises `ValueError` for an invalid URL.
    """
    if not url:
        return Place()
    parts = urlsplit(url)
    host, as_it_is = (parts.hostname or "").rstrip("."), f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if host == _LEGACY_OF_US_EAST_1:
        return Place("us-east-1")
    for partition in Session().get_component("data_loader").load_data("partitions")["partitions"]:
        own, dual = (re.escape(partition["outputs"][key]) for key in ("dnsSuffix", "dualStackDnsSuffix"))
        region = f"(?P<region>{partition['regionRegex'].strip('^$')})"
        for form in (rf"sqs\.{region}\.{own}", rf"{region}\.queue\.{own}"):
            if found := re.fullmatch(form, host):
                return Place(found["region"], as_it_is if parts.port else None)
        for form in (rf"(?:sqs|sqs-fips)\.{region}", rf"[\w.-]+\.(?:sqs|sqs-fips)\.{region}\.vpce"):
            if found := re.fullmatch(rf"{form}\.(?:{own}|{dual})", host):
                return Place(found["region"], as_it_is)
    return Place(None, as_it_is)
