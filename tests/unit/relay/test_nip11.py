import orjson
import pytest

from pipeline.relay.advertised import AdvertisedLimits
from pipeline.relay.nip11 import (
    InformationFault,
    InvalidInformation,
    RelayInformation,
    parse_information,
)


def test_document_is_read() -> None:
    document = {
        "name": "relay",
        "description": "unused",
        "software": "git+https://github.com/hoytech/strfry.git",
        "version": "1.1.0",
        "supported_nips": [1, 11, 77],
        "limitation": {
            "max_message_length": 131072,
            "max_subscriptions": 20,
            "max_limit": 500,
            "default_limit": 100,
            "max_subid_length": 64,
            "auth_required": True,
            "restricted_writes": True,
            "created_at_lower_limit": 94608000,
        },
    }
    assert parse_information(orjson.dumps(document)) == RelayInformation(
        limits=AdvertisedLimits(
            max_message_length=131072,
            max_subscriptions=20,
            max_limit=500,
            default_limit=100,
            max_subid_length=64,
            auth_required=True,
            restricted_writes=True,
            created_at_lower_limit=94608000,
        ),
        negentropy=True,
        name="relay",
        software="git+https://github.com/hoytech/strfry.git",
        version="1.1.0",
        supported_nips=frozenset({1, 11, 77}),
    )


def test_wrong_types_count_as_missing() -> None:
    limits = {
        "max_limit": "500",
        "max_subscriptions": -1,
        "max_message_length": True,
        "default_limit": 1.5,
        "max_subid_length": 2**60,
        "auth_required": "false",
        "payment_required": 1,
        "max_filters": None,
    }
    document = {"name": 5, "version": None, "supported_nips": ["1", 2, True, [3], 4.0], "limitation": limits}
    assert parse_information(orjson.dumps(document)) == RelayInformation(supported_nips=frozenset({2}))
    assert parse_information(b'{"limitation":[],"supported_nips":{},"negentropy":"1"}') == RelayInformation()


def test_negentropy_is_claimed_by_either_member() -> None:
    assert parse_information(b'{"negentropy":1}').negentropy
    assert parse_information(b'{"supported_nips":[77]}').negentropy
    assert not parse_information(b'{"negentropy":2}').negentropy


def test_texts_are_short_and_printable() -> None:
    name = parse_information(orjson.dumps({"name": "a\nb" + "x" * 5000})).name
    assert name.startswith("a bx")
    assert len(name) == 100


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", InformationFault.JSON),
        (b"<html>", InformationFault.JSON),
        (b'{"name":"\xff"}', InformationFault.JSON),
        (b"[" * 100_000, InformationFault.JSON),
        (b"[]", InformationFault.SHAPE),
        (b"null", InformationFault.SHAPE),
    ],
)
def test_what_is_no_document_is_refused(document: bytes, reason: InformationFault) -> None:
    with pytest.raises(InvalidInformation) as invalid:
        parse_information(document)
    assert invalid.value.reason is reason
