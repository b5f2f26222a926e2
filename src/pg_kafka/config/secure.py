"""What `pg-kafka serve --secure` sets where nothing else does: TLS by its own certificates, logins, and an authorizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ADMIN = "admin"


def folder_of(data: Path) -> Path:
    """Where the certificates and the admin's client files are: beside the data folder."""
    return data.with_name(data.name + "-secure")


def secure_settings(data: Path) -> Mapping[str, str]:
    """Texts of settings, by name."""
    return {
        "ssl.keystore.location": str(folder_of(data) / "broker.pem"),
        "super.users": f"User:{ADMIN}",
        "pg_kafka.authorizer": "acl",
    }
