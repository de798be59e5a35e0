import pytest

from tests.integration.relay.peers import Tls, make_tls


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    contexts = make_tls(tmp_path_factory.mktemp("tls"), "DNS:relay.example", "IP:127.0.0.1")
    if contexts is None:
        pytest.skip("no openssl program to make a certificate with")
    return contexts
