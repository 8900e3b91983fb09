"""Whom the test API server answers, and as whom it shows itself."""

from collections.abc import Iterator

import pytest

from tests.apiserver import ApiServer
from tests.apiserver.asking import Asker


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def test_tokens_and_nobody(server: ApiServer) -> None:
    asker = Asker(server, token=server.token)
    anonymous = Asker(server).list("endpointslices")
    assert (anonymous["code"], anonymous["reason"]) == (403, "Forbidden")
    assert anonymous["message"] == (
        'endpointslices.discovery.k8s.io is forbidden: User "system:anonymous" cannot list resource "endpointslices" '
        'in API group "discovery.k8s.io" at the cluster scope'
    )
    with Asker(server).get("/version") as answer:
        assert answer.json()["minor"] == "36"
    server.set_tokens("another")
    assert asker.list("services")["reason"] == "Unauthorized"
    assert Asker(server, token="another").list("services")["kind"] == "ServiceList"
    server.set_tokens(server.token)


def test_client_certificates_expire_and_their_ca_changes(server: ApiServer) -> None:
    good = server.client_certificate("somebody")
    assert Asker(server, client=good).list("services")["kind"] == "ServiceList"
    expired = server.client_certificate("somebody", lifetime_s=-60)
    assert Asker(server, client=expired).list("services")["code"] == 401
    server.forbid("services")
    assert 'User "somebody"' in Asker(server, client=good).list("services")["message"]
    server.lift()
    server.replace_client_ca()
    assert Asker(server, client=good).list("services")["code"] == 401
    assert Asker(server, client=server.client_certificate()).list("services")["kind"] == "ServiceList"


def test_the_server_changes_its_certificate_and_its_ca(server: ApiServer) -> None:
    asker = Asker(server, token=server.token)
    server.replace_certificate()
    assert asker.list("services")["kind"] == "ServiceList"
    server.replace_certificate(ca=True)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        asker.list("services")
    assert Asker(server, token=server.token).list("services")["kind"] == "ServiceList"
