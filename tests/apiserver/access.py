"""Who may ask: bearer tokens and client certificates."""

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from tests.apiserver.status import unauthorized

TOKEN_USER = "system:serviceaccount:kube-system:kpf"
# X509_V_FLAG_NO_CHECK_TIME: one that has expired is answered 401, as kube-apiserver does, not refused in the handshake
NO_CHECK_TIME = 0x200000


@dataclass(slots=True)
class Access:
    """`tokens`: those that are good. `issuer`: organizational unit of the CA whose client certificates are good."""

    tokens: frozenset[str] = frozenset()
    issuer: str = ""
    _trusted: list[str] = field(default_factory=list)

    def user(self, request: web.BaseRequest) -> str:
        """Who asks, "" for nobody in particular. Raises `ApiError` (401) for credentials that are not good."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind:
            if kind != "Bearer" or token not in self.tokens:
                raise unauthorized()
            return TOKEN_USER
        certificate = request.transport and request.transport.get_extra_info("peercert")
        return self._certified(certificate) if certificate else ""

    def _certified(self, certificate: Mapping[str, object]) -> str:
        now = time.time()
        starts, ends = (ssl.cert_time_to_seconds(str(certificate[name])) for name in ("notBefore", "notAfter"))
        if not starts <= now <= ends or _named(certificate["issuer"], "organizationalUnitName") != self.issuer:
            raise unauthorized()
        return _named(certificate["subject"], "commonName")

    def trust(self, ca_path: str, issuer: str) -> None:
        """Client certificates of this CA are good from now on, those of the one before are not."""
        self.issuer = issuer
        self._trusted.append(ca_path)

    def tls(self, certificate_path: str) -> ssl.SSLContext:
        """For a listener that shows the certificate (and key) of that file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= NO_CHECK_TIME
        # also the CAs that are good no longer: their certificates are answered, with 401
        for path in self._trusted:
            context.load_verify_locations(path)
        return context


def _named(name: object, wanted: str) -> str:
    assert isinstance(name, Iterable)
    return next((value for part in name for key, value in part if key == wanted), "")
