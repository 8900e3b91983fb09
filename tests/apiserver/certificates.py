"""Certificates: the server's, and those of its clients; each with a CA of its own."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """A CA that can be replaced.

    `ca_path`: its certificate, a new file for each CA; `issuer`: its organizational unit.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name, self._number = directory, name, 0
        self.replace()

    def replace(self) -> None:
        """A new CA; certificates that the old one has issued are not good for it."""
        self._number += 1
        self.issuer = f"{self._name} {self._number}"
        self._ca = trustme.CA(organization_unit_name=self.issuer)
        self.ca_path = self._directory / f"{self._name}-ca-{self._number}.crt"
        self._ca.cert_pem.write_to_path(self.ca_path)

    def server(self, *identities: str) -> Path:
        """A file with certificate and key for a server of these names or addresses."""
        return self._written(self._ca.issue_cert(*identities))

    def client(self, user: str, *, lifetime_s: float = 3600.0) -> Path:
        """A file with certificate and key for that user; a negative lifetime gives one that has expired."""
        ends = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        return self._written(self._ca.issue_cert(common_name=user, not_before=ends - timedelta(days=1), not_after=ends))

    def _written(self, certificate: trustme.LeafCert) -> Path:
        self._number += 1
        path = self._directory / f"{self._name}-{self._number}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        path.chmod(0o600)
        return path
