"""Certificate, key and client CA as PEM text, as ECS gives a secret: they serve like files, and no key is shown."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import trustme

from service.grpc.address import Address
from service.grpc.listen import bind
from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError

AUTHORITY = trustme.CA()
LEAF, OTHER = (AUTHORITY.issue_cert("localhost") for _ in range(2))


def pem(blob: trustme.Blob) -> str:
    return blob.bytes().decode()


def address(**changes: str) -> Address:
    given: dict[str, Any] = {
        "variables": "QUEUE", "listen": "127.0.0.1:0", "socket_mode": "0600",
        "certificate": pem(LEAF.cert_chain_pems[0]), "key": pem(LEAF.private_key_pem),
        "client_ca": pem(AUTHORITY.cert_pem),
        **changes,
    }  # fmt: skip
    return Address(**given)


async def test_text_serves_mutual_tls() -> None:
    server = grpc.aio.server()
    port = await bind(server, address())
    await server.start()
    try:
        for key, chain, is_let_in in ((LEAF.private_key_pem, LEAF.cert_chain_pems[0], True), (None, None, False)):
            mine = (key.bytes(), chain.bytes()) if key and chain else (None, None)
            credentials = grpc.ssl_channel_credentials(AUTHORITY.cert_pem.bytes(), *mine)
            options = [("grpc.ssl_target_name_override", "localhost")]
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as said:
                    await channel.unary_unary("/none/None", None, None)(b"", timeout=30)
            wanted = grpc.StatusCode.UNIMPLEMENTED if is_let_in else grpc.StatusCode.UNAVAILABLE
            assert said.value.code() == wanted
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": pem(OTHER.private_key_pem)}, "QUEUE_KEY is not the key of QUEUE_CERTIFICATE"),
        ({"key": pem(LEAF.private_key_pem)[:200]}, "QUEUE_KEY is not a private key (PEM)"),
        ({"key": "Bag Attributes\n" + pem(OTHER.private_key_pem)}, "QUEUE_KEY is not the key of QUEUE_CERTIFICATE"),
        ({"certificate": pem(LEAF.cert_chain_pems[0])[:300]}, "QUEUE_CERTIFICATE is not a certificate (PEM)"),
        ({"client_ca": pem(AUTHORITY.cert_pem)[:300]}, "QUEUE_CLIENT_CA is not a certificate (PEM)"),
    ],
)
async def test_text_that_will_not_do_is_named_and_not_shown(changes: dict[str, str], says: str) -> None:
    server = grpc.aio.server()
    with pytest.raises(ServiceError) as raised:
        await bind(server, address(**changes))
    await server.stop(None)
    assert says in str(raised.value)
    assert "-----BEGIN" not in str(raised.value)


def test_no_repr_shows_a_key() -> None:
    secret = pem(LEAF.private_key_pem)
    given = QueueSettings(queue="jetstream:s", queue_key=secret)
    for shown in (repr(given), str(given), repr(given.address), str(address())):
        assert secret.splitlines()[1] not in shown
