"""Find DynamoDB's endpoint, proxy and CA in the AWS configuration (docs/adr/0008-dynamodb-client.md)."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from botocore.exceptions import BotoCoreError
from botocore.httpsession import ProxyConfiguration
from botocore.utils import get_environ_proxies

from service.dynamodb.connect import Proxy
from service.runtime.aws import aws_session
from service.runtime.errors import ServiceError

_ACCOUNT: Final = "000000000000"
"""Placeholder for the account that the credentials will name."""

_plain: Final = re.compile(r"[!-~]*").fullmatch
_scheme: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://").match
_host_label: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}").fullmatch


@dataclass(frozen=True)
class Endpoint:
    region: str
    """Region to sign for: the configured one may be an alias (fips-us-east-1)."""
    url: str | None
    """URL when the credentials name no account; None: the account is required."""
    account_url: str | None = None
    """URL with `_ACCOUNT` in place of the account; None: `url` serves every account."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """Verifies the server's certificate; None: by the system's authorities."""
    proxy: Proxy | None = None
    """Proxy for both URLs."""

    def of(self, account: str | None) -> str:
        """Return the URL for credentials of that account. Raise `ServiceError` if there is none."""
        if account and self.account_url:
            if not _host_label(account):
                raise ServiceError("AWS_ACCOUNT_ID is not an account id", "correct it: it is a part of the host name")
            return self.account_url.replace(_ACCOUNT, account)
        if self.url is None:
            raise ServiceError(
                "AWS_ACCOUNT_ID_ENDPOINT_MODE is required, and the credentials name no account",
                "set AWS_ACCOUNT_ID, or the mode to preferred",
            )
        return self.url


def endpoint() -> Endpoint:
    """Return DynamoDB's endpoint as botocore resolves it, with region, CA and proxy.

    Raise `ServiceError` if the AWS configuration names no region, is invalid, or uses an unsupported feature.
    """
    try:
        session = aws_session()
        if not session.get_config_variable("region"):
            raise ServiceError("AWS_REGION is not set", "set it to the table's region")
        if str(session.get_config_variable("endpoint_discovery_enabled")).strip().lower() == "true":
            raise ServiceError("AWS_ENDPOINT_DISCOVERY_ENABLED is true, which is not supported", "unset it")
        # Dummy credentials, so that botocore does not search for any: this client only resolves, and never calls.
        session.set_credentials("none", "none", account_id=_ACCOUNT)
        given: Any = session.get_credentials()
        client: Any = session.create_client("dynamodb")
        _check(client.meta.endpoint_url)
        account_url, region = _called(client)
        given.account_id = None
        url = _url_without_account(client)
    except (BotoCoreError, ValueError) as error:
        said = re.sub(r"\S*@| as '.*'", "", str(error))  # an address, or its supposed port, may hold a password
        raise ServiceError(
            f"AWS configuration: {said}", "correct it (AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL...)"
        ) from None
    bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    tls = _verified_by(bundle) if bundle and account_url.startswith("https:") else None
    # botocore chooses the proxy by this URL for every account, so NO_PROXY must name the region's host.
    proxy = proxy_to(client.meta.endpoint_url)
    return Endpoint(region, url, None if account_url == url else account_url, tls, proxy)


def _check(url: str) -> None:
    """Raise `ServiceError` for an endpoint that cannot be called as written."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        problem, remedy = "has a user in its URL", "leave it out: the AWS SDK's credentials are used"
    elif parts.query or not _plain(parts.path):
        problem, remedy = "has a query, or a path that is not encoded", "leave the query out, and write a blank as %20"
    elif parts.port == 0:
        problem, remedy = "has a port 0", "give the one that DynamoDB listens on"
    else:
        return
    raise ServiceError(f"AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL {problem}", remedy)


def proxy_to(url: str) -> Proxy | None:
    """Return the proxy for a URL, from HTTP_PROXY, HTTPS_PROXY and NO_PROXY as botocore reads them.

    Raise `ServiceError` for an https:// proxy and for an invalid address.
    """
    proxies = get_environ_proxies(url)
    kind = urlsplit(url).scheme
    variable, given = f"{kind.upper()}_PROXY", proxies.get(kind)
    if not given:
        return None
    scheme = _scheme(given)  # botocore takes an unknown scheme for a host name
    if scheme and scheme[1] != "http":
        raise ServiceError(
            f"{variable} is a {scheme[1]}:// proxy, which is not supported",
            "give an http:// one, or name DynamoDB's host in NO_PROXY",
        )
    configured = ProxyConfiguration(proxies)
    address = configured.proxy_url_for(url)
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, 80 if parts.port is None else parts.port
        authorization = configured.proxy_headers_for(address).get("Proxy-Authorization")
    except ValueError:  # do not show it: its message quotes the password
        host = None
    if not host or not port:
        raise ServiceError(f"{variable} is not an address", "correct it, or name DynamoDB's host in NO_PROXY")
    return Proxy(host, port, f"Proxy-Authorization: {authorization}\r\n" if authorization else "")


def _called(client: Any) -> tuple[str, str]:
    """Return the URL botocore would call and the region it would sign for; `client.meta` may not show them."""
    url, _, query = client.generate_presigned_url("list_tables").partition("?")
    scope: str = parse_qs(query)["X-Amz-Credential"][0]
    return url, scope.split("/")[2]


def _url_without_account(client: Any) -> str | None:
    try:
        return _called(client)[0]
    except BotoCoreError:  # AWS_ACCOUNT_ID_ENDPOINT_MODE=required; with an account it resolved before
        return None


def _verified_by(bundle: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise ServiceError(
            f"CA bundle {bundle}: {error.strerror or error}",
            "correct AWS_CA_BUNDLE, or ca_bundle of the profile, or REQUESTS_CA_BUNDLE",
        ) from None
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as botocore: a company's CA may violate strict rules
    return context
