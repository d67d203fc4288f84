"""AWS credentials, as the SDK finds them."""

from __future__ import annotations

import asyncio

from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.session import Session

from service.dynamodb.errors import NoCredentialsError


class CredentialChain:
    """botocore's credential chain, so that profiles and SSO work. Its refreshes block, so a thread runs them."""

    def __init__(self) -> None:
        self._credentials: Credentials | None = None

    async def current(self) -> ReadOnlyCredentials:
        credentials = self._credentials
        if credentials is None:
            self._credentials = credentials = await asyncio.to_thread(lambda: Session().get_credentials())
        if credentials is None:
            raise NoCredentialsError
        if getattr(credentials, "refresh_needed", bool)():
            frozen = await asyncio.to_thread(credentials.get_frozen_credentials)
        else:
            frozen = credentials.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise NoCredentialsError
        return frozen

    def forget(self) -> None:
        self._credentials = None
