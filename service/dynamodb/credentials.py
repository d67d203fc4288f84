"""AWS credentials, as the SDK finds them."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final

from botocore.credentials import Credentials, ReadOnlyCredentials

from service.dynamodb.errors import CredentialsRefreshError, NoCredentialsError
from service.runtime.aws import aws_session
from service.runtime.threads import in_thread

RETRY_S: Final = 10.0
"""Between two attempts to refresh credentials that are still valid, or to replace ones that DynamoDB refuses."""
FAILED_S: Final = 1.0
"""For so long a load that failed is the answer: callers would have one follow the other."""
HUNG_S: Final = 60.0
"""A load that takes longer has another beside it, twice as long after the one before: its thread cannot be freed."""
_secret: Final = re.compile(r"(?=[A-Za-z+/=]*\d)[A-Za-z0-9+/=]{20,}")
"""What may be a part of a credential, in the words of a provider."""


class CredentialChain:
    """botocore's credential chain, so that profiles and SSO work. Its refreshes block, so a thread runs them.

    Credentials that are due for a refresh are used until they expire; no call waits for the refresh before that.
    """

    def __init__(self) -> None:
        self._credentials: Credentials | None = None
        self._frozen: ReadOnlyCredentials | None = None
        self._loading: asyncio.Task[ReadOnlyCredentials] | None = None
        self._hung: set[asyncio.Task[ReadOnlyCredentials]] = set()
        """Loads that have another beside them."""
        self._tried_s = self._failed_s = self._forgot_s = float("-inf")
        self._had = False
        """The chain gave some before."""

    async def current(self, deadline: float) -> ReadOnlyCredentials:
        """Waits for them to `deadline`, a time of the loop's clock; a load that is later goes on, for the next call.

        Raises `CredentialsRefreshError` when the chain gives none now, whatever it raises itself, and
        `NoCredentialsError` when it has none and never had.
        """
        frozen = self._frozen
        if frozen is not None:
            if self._remain_valid(None):
                return frozen
            if self._remain_valid(0):
                if time.monotonic() - self._tried_s > RETRY_S:
                    self._load()
                return frozen
        what = "AWS credentials have expired" if self._had else "AWS credentials cannot be had"
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
        """Have them read again, once in `RETRY_S`: DynamoDB does not take these. Those that came since are kept."""
        now = time.monotonic()
        if refused is self._frozen and now - self._forgot_s > RETRY_S:
            self._forgot_s = now
            self._credentials = self._frozen = None

    def _remain_valid(self, seconds: int | None) -> bool:
        """For `seconds`; None: as long as botocore wants them to be. An end that cannot be read has passed."""
        if self._credentials is None:
            return False
        refresh_needed = getattr(self._credentials, "refresh_needed", None)
        try:
            return refresh_needed is None or not refresh_needed(refresh_in=seconds)
        except Exception:  # a provider gave a time without a zone, which a refresh has already taken over
            self._credentials = self._frozen = None
            return False

    def _load(self) -> asyncio.Task[ReadOnlyCredentials]:
        """The load that is under way or has just failed, or a new one."""
        now, last = time.monotonic(), self._loading
        if last is not None:
            if not last.done() and now - self._tried_s < HUNG_S * 2.0 ** len(self._hung):
                return last
            if last.done() and now - self._failed_s < FAILED_S:
                return last
            if not last.done():
                self._hung.add(last)
                last.add_done_callback(self._hung.discard)
        self._tried_s = now
        self._loading = asyncio.create_task(self._load_once(), name="credentials")
        self._loading.add_done_callback(self._ended)
        return self._loading

    async def _load_once(self) -> ReadOnlyCredentials:
        # What hangs in a refresh has its lock.
        credentials = (None if self._hung else self._credentials) or await in_thread(_find, "credentials")
        frozen = await in_thread(credentials.get_frozen_credentials, "credentials") if credentials else None
        if not frozen or not frozen.access_key or not frozen.secret_key:
            if self._had:
                raise LookupError("the chain has none any more")
            raise NoCredentialsError
        if frozen.account_id is not None and not isinstance(frozen.account_id, str):
            frozen = frozen._replace(account_id=str(frozen.account_id).zfill(12))  # a number loses its first zeros
        self._credentials, self._frozen, self._had = credentials, frozen, True
        return frozen

    def _ended(self, load: asyncio.Task[ReadOnlyCredentials]) -> None:
        """Nobody may be waiting for it: its error is not to be called unretrieved."""
        if not load.cancelled() and load.exception() and load is self._loading:
            self._failed_s = time.monotonic()


def _find() -> Credentials | None:
    found: Credentials | None = aws_session().get_credentials()
    return found
