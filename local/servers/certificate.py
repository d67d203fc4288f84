"""The authority of the local system's MQTT over TLS, and its server's certificate."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.files import write_private
from local.process import LocalError

AUTHORITY: Final = "mqtt-ca.pem"
"""What a device must trust."""
AUTHORITY_DAYS: Final = 3_650
SERVER_DAYS: Final = 365
_CLOCK_SKEW: Final = timedelta(days=1)


def issue(folder: Path, host: str) -> Path:
    """Issue a certificate for `host`, a name or an address, and for loopback; return its file, which has the key too.

    The authority in `folder` is made on first use and kept: devices trust it. Raises `LocalError` when it is damaged.
    """
    authority, signer = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_name(each) for each in dict.fromkeys((host, "localhost", "127.0.0.1"))]
    certificate = (
        _begun(host, authority.subject, key, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    path = folder / "mqtt.pem"
    write_private(path, _private(key) + _public(certificate))
    return path


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path, key_path = folder / AUTHORITY, folder / "mqtt-ca.key"
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject("customer-balance local authority")
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            _begun("customer-balance local authority", name, key, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(key_path, _private(key))
        write_private(path, _public(certificate))
    try:
        signer = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if isinstance(signer, ec.EllipticCurvePrivateKey):
            return x509.load_pem_x509_certificate(path.read_bytes()), signer
    except (OSError, ValueError):
        pass
    raise LocalError(f"{path} or {key_path} is damaged; delete both, and give your devices the new authority")


def _begun(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer, subject_name=_subject(name), public_key=key.public_key(),
        serial_number=x509.random_serial_number(), not_valid_before=now - _CLOCK_SKEW,
        not_valid_after=now + timedelta(days=days),
    )  # fmt: skip


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _public(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
