"""Certificates for servers of the tests that speak TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Certificates:
    """The paths of PEM files: a server's certificate and key, and the authority that its clients trust."""

    authority: str
    certificate: str
    key: str

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Create a certificate for 127.0.0.1, and an authority that issues it."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        made = cls(*(str(folder / name) for name in ("authority.pem", "certificate.pem", "key.pem")))
        authority.cert_pem.write_to_path(made.authority)
        issued.cert_chain_pems[0].write_to_path(made.certificate)
        issued.private_key_pem.write_to_path(made.key)
        return made

    @property
    def of_server(self) -> list[str]:
        files = ("--tls-ca-cert-file", self.authority, "--tls-cert-file", self.certificate, "--tls-key-file", self.key)
        return [*files, "--tls-auth-clients", "no", "--tls-replication", "yes", "--tls-cluster", "yes"]

    @property
    def of_client(self) -> dict[str, Any]:
        return {"ssl": True, "ssl_ca_certs": self.authority}
