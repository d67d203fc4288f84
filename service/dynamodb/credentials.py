"""Load and refresh AWS credentials as the SDK does."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Final

from botocore.credentials import Credentials, ReadOnlyCredentials

from service.dynamodb.errors import CredentialsRefreshError, NoCredentialsError
from service.runtime.aws import aws_session
from service.runtime.threads import in_thread

_secret: Final = re.compile(r"(?=[A-Za-z+/=]*\d)[A-Za-z0-9+/=]{20,}")
"""Matches what may be part of a credential in a provider's error message."""


@dataclass(frozen=True, slots=True)
class Timing:
    retry_s: float = 10.0
    """Seconds between attempts to refresh valid credentials, or to replace those that DynamoDB refuses."""
    failed_s: float = 1.0
    """Seconds for which all callers get the error of a failed load: otherwise each would start another."""
    hung_s: float = 60.0
    """Seconds until a second load starts beside a hung one, whose thread cannot be freed; the delay then doubles."""


class CredentialChain:
    """botocore's credential chain, so that profiles, SSO and the task role work. It blocks, so a thread runs it.

    Credentials due for a refresh are used until they expire: until then no call waits for the refresh.
    """

    def __init__(self, *, timing: Timing = Timing()) -> None:
        self._timing = timing
        self._credentials: Credentials | None = None
        self._frozen: ReadOnlyCredentials | None = None
        self._loading: asyncio.Task[ReadOnlyCredentials] | None = None
        self._hung: set[asyncio.Task[ReadOnlyCredentials]] = set()
        """Loads that took too long, so that another runs beside them."""
        self._tried_s = self._failed_s = self._forgot_s = float("-inf")
        self._had = False
        """True once the chain has given credentials."""

    async def current(self, deadline: float) -> ReadOnlyCredentials:
        """Return valid credentials by `deadline`, a time of the loop's clock. A slower load goes on for the next call.

        Raise `NoCredentialsError` if the chain has none and never had any, and `CredentialsRefreshError` if it gives
        none for any other reason.
        """
        frozen = self._frozen
        if frozen is not None:
            if self._remain_valid(None):
                return frozen
            if self._remain_valid(0):
                if time.monotonic() - self._tried_s > self._timing.retry_s:
                    self._load()
                return frozen
        what = "AWS credentials have expired" if self._had else "AWS credentials cannot be loaded"
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._load())
        except NoCredentialsError:
            raise
        except TimeoutError as error:
            raise CredentialsRefreshError(f"{what} (no answer in time)") from error
        except Exception as error:
            said = _secret.sub("***", " ".join(str(error).split()))[:200]
            raise CredentialsRefreshError(f"{what} ({type(error).__name__}{said and f': {said}'})") from error

    def forget(self, refused: ReadOnlyCredentials) -> None:
        """Drop credentials that DynamoDB refused, at most once in `retry_s` seconds. Keep those loaded since."""
        now = time.monotonic()
        if refused is self._frozen and now - self._forgot_s > self._timing.retry_s:
            self._forgot_s = now
            self._credentials = self._frozen = None

    def _remain_valid(self, seconds: int | None) -> bool:
        """Return whether they are valid for `seconds` more; None: for botocore's margin. Unreadable expiry: False."""
        if self._credentials is None:
            return False
        refresh_needed = getattr(self._credentials, "refresh_needed", None)
        try:
            return refresh_needed is None or not refresh_needed(refresh_in=seconds)
        except Exception:  # a refresh took a provider's time without a zone, which cannot be compared
            self._credentials = self._frozen = None
            return False

    def _load(self) -> asyncio.Task[ReadOnlyCredentials]:
        """Return the load in progress or just failed, else start one."""
        now, last = time.monotonic(), self._loading
        if last is not None:
            if not last.done() and now - self._tried_s < self._timing.hung_s * 2.0 ** len(self._hung):
                return last
            if last.done() and now - self._failed_s < self._timing.failed_s:
                return last
            if not last.done():
                self._hung.add(last)
                last.add_done_callback(self._hung.discard)
        self._tried_s = now
        self._loading = asyncio.create_task(self._load_once(), name="credentials")
        self._loading.add_done_callback(self._ended)
        return self._loading

    async def _load_once(self) -> ReadOnlyCredentials:
        # A hung refresh holds the lock of its credentials: find new ones.
        credentials = (None if self._hung else self._credentials) or await in_thread(_find, "credentials")
        frozen = await in_thread(credentials.get_frozen_credentials, "credentials") if credentials else None
        if not frozen or not frozen.access_key or not frozen.secret_key:
            if self._had:
                raise LookupError("the chain no longer has any")
            raise NoCredentialsError
        if frozen.account_id is not None and not isinstance(frozen.account_id, str):
            frozen = frozen._replace(account_id=str(frozen.account_id).zfill(12))  # a number lost its leading zeros
        self._credentials, self._frozen, self._had = credentials, frozen, True
        return frozen

    def _ended(self, load: asyncio.Task[ReadOnlyCredentials]) -> None:
        """Retrieve the load's error, or asyncio logs it when no caller waits; note the time of the failure."""
        if not load.cancelled() and load.exception() and load is self._loading:
            self._failed_s = time.monotonic()


def _find() -> Credentials | None:
    found: Credentials | None = aws_session().get_credentials()
    return found
