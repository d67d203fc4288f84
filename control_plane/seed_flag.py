"""The flag that marks the table as seeded."""

from __future__ import annotations

import nats.errors
from nats.js.errors import Error as JetStreamError
from nats.js.errors import KeyNotFoundError, NotFoundError

from control_plane.errors import ProvisioningError
from control_plane.self_hosted.provider import connected
from service.contracts import customer as contract


async def clear(nats_url: str, creds: str) -> bool:
    """Remove the flag, as user `service`; return whether it was set. The next task to start then seeds.

    Raises `ProvisioningError` if the bucket cannot be reached.
    """
    async with connected(nats_url, creds, inbox_prefix=contract.INBOX_PREFIX) as client:
        try:
            bucket = await client.jetstream().key_value(contract.BUCKET)
            await bucket.get(contract.SEED_KEY)
            await bucket.delete(contract.SEED_KEY)
        except (KeyNotFoundError, NotFoundError):
            return False
        except (nats.errors.Error, JetStreamError) as error:
            raise ProvisioningError(f"bucket {contract.BUCKET} cannot be changed: {error}") from None
    return True
