"""Settings that each gRPC server has, under its own prefix."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

SocketMode = Annotated[
    str,
    StringConstraints(pattern=r"^0?[0-7]{3}$"),
    Field(description="octal mode of a Unix socket; write permission lets a user connect"),
]
Certificate = Annotated[str, Field(description="file of the server's certificate chain, or its text (PEM); TLS")]
Key = Annotated[str, Field(description="file of its private key, or its text (PEM)", repr=False)]
ClientCa = Annotated[str, Field(description="file of the CA of client certificates, or its text (PEM); mutual TLS")]
