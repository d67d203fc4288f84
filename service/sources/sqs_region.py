"""Which region a queue's URL belongs to.

https://docs.aws.amazon.com/general/latest/gr/sqs-service.html
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from botocore.session import Session

_LEGACY_OF_US_EAST_1: Final = "queue.amazonaws.com"


def region_of(url: str) -> str | None:
    """Return the region; None when the host is none of AWS's: a custom endpoint, say.

    AWS's domains, and what its regions are called, are botocore's `partitions`. A URL may be regional, FIPS, dual
    stack, of a VPC endpoint, or in the legacy form.
    """
    host = urlsplit(url).hostname or ""
    if host == _LEGACY_OF_US_EAST_1:
        return "us-east-1"
    for partition in Session().get_component("data_loader").load_data("partitions")["partitions"]:
        domains = "|".join(re.escape(partition["outputs"][key]) for key in ("dnsSuffix", "dualStackDnsSuffix"))
        region = f"(?P<region>{partition['regionRegex'].strip('^$')})"
        for form in (rf"(?:sqs|sqs-fips)\.{region}", rf"[\w.-]+\.sqs\.{region}\.vpce", rf"{region}\.queue"):
            if found := re.fullmatch(rf"{form}\.(?:{domains})", host):
                return str(found["region"])
    return None
