"""AWS credentials, as the SDK finds them."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.session import Session

from service.dynamodb.errors import CredentialsRefreshError, NoCredentialsError
from service.runtime.threads import in_thread

RETRY_S: Final = 10.0
"""Between two attempts to refresh credentials that are still valid."""


class CredentialChain:
    """botocore's credential chain, so that profiles and SSO work. Its refreshes block, so a thread runs them.

    Credentials that are due for a refresh are used until they expire; no call waits for the refresh before that.
    """

    def __init__(self) -> None:
        self._credentials: Credentials | None = None
        self._frozen: ReadOnlyCredentials | None = None
        self._loading: asyncio.Task[ReadOnlyCredentials] | None = None
        self._tried_s = float("-inf")

    async def current(self, deadline: float) -> ReadOnlyCredentials:
        """Waits for them to `deadline`, a time of the loop's clock.

        Raises `CredentialsRefreshError` when they have expired and cannot be refreshed, `NoCredentialsError`, and
        `TimeoutError`; the load goes on, for the next call.
        """
        frozen = self._frozen
        if frozen is None:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._load())
        if self._remain_valid(None):
            return frozen
        if self._remain_valid(0):
            if time.monotonic() - self._tried_s > RETRY_S:
                self._load()
            return frozen
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._load())
        except Exception as error:
            raise CredentialsRefreshError(f"AWS credentials have expired ({type(error).__name__})") from error

    def forget(self) -> None:
        self._credentials = self._frozen = None

    def _remain_valid(self, seconds: int | None) -> bool:
        """For `seconds`; None: as long as botocore wants them to be."""
        refresh_needed = getattr(self._credentials, "refresh_needed", None)
        return refresh_needed is None or not refresh_needed(refresh_in=seconds)

    def _load(self) -> asyncio.Task[ReadOnlyCredentials]:
        """The load that is under way, or a new one."""
        if self._loading is None or self._loading.done():
            self._tried_s = time.monotonic()
            self._loading = asyncio.create_task(self._load_once(), name="credentials")
            self._loading.add_done_callback(_retrieve)
        return self._loading

    async def _load_once(self) -> ReadOnlyCredentials:
        credentials = self._credentials or await in_thread(_find, "credentials")
        if credentials is None:
            raise NoCredentialsError
        frozen = await in_thread(credentials.get_frozen_credentials, "credentials")
        if not frozen.access_key or not frozen.secret_key:
            raise NoCredentialsError
        self._credentials, self._frozen = credentials, frozen
        return frozen


def _find() -> Credentials | None:
    found: Credentials | None = Session().get_credentials()
    return found


def _retrieve(load: asyncio.Task[ReadOnlyCredentials]) -> None:
    """Nobody may be waiting for it: its error is not to be called unretrieved."""
    if not load.cancelled():
        load.exception()
