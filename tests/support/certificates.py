"""An authority made for a test, the files of a server that it vouches for, and clients of it or of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


@dataclass(frozen=True)
class Certificates:
    authority: trustme.CA
    folder: Path

    def files(self) -> tuple[str, str, str]:
        """Write the server's chain, its key and the authority of clients; return their paths."""
        leaf = self.authority.issue_cert("127.0.0.1", "localhost")
        chain, key, authority = (self.folder / name for name in ("chain.pem", "key.pem", "ca.pem"))
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        authority.write_bytes(self.authority.cert_pem.bytes())
        return str(chain), str(key), str(authority)

    def client(self, issuer: trustme.CA | None) -> grpc.ChannelCredentials:
        """Return the credentials of a client that trusts the authority, with a certificate of `issuer`."""
        trusted = self.authority.cert_pem.bytes()
        if issuer is None:
            return grpc.ssl_channel_credentials(trusted)
        leaf = issuer.issue_cert("client")
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return grpc.ssl_channel_credentials(trusted, leaf.private_key_pem.bytes(), chain)
