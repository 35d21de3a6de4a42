"""Certificates for tests: an authority, and a key and certificate that it signed."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> bytes:
    now = datetime.datetime.now(tz=datetime.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
    )
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def generate(folder: Path) -> dict[str, str]:
    """Write an authority, a certificate and its key; give Dask's standard variables that name them, for every role."""
    folder.mkdir()
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    unencrypted = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    contents = {
        "ca.pem": _certificate("authority", authority, "authority", authority),
        "cert.pem": _certificate("cluster", key, "authority", authority),
        "key.pem": pem,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    prefix = "DASK_DISTRIBUTED__COMM__TLS"
    variables = {f"{prefix}__CA_FILE": str(folder / "ca.pem")}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        variables[f"{prefix}__{role}__CERT"] = str(folder / "cert.pem")
        variables[f"{prefix}__{role}__KEY"] = str(folder / "key.pem")
    return variables
