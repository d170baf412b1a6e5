"""The limits on images and bytes in flight."""

import pytest
from starlette.requests import Request

from reslab.deploy.server.connections import client_key
from reslab.deploy.server.errors import HTTPError
from reslab.deploy.server.requests import AdmissionLimiter
from reslab.deploy.server.settings import ServerSettings
from reslab.deploy.server.state import client_of


def test_slots_are_counted_and_freed() -> None:
    limiter = AdmissionLimiter(3, 100)
    with limiter.admit() as admission:
        admission.reserve_images(2)
        assert limiter.num_images == 3
        with pytest.raises(HTTPError, match="3 of at most 3 images") as refusal:
            limiter.admit()
        assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (429, "1")
    assert limiter.num_images == 0


def test_bytes_are_counted_and_given_back() -> None:
    limiter = AdmissionLimiter(3, 100)
    with limiter.admit() as admission:
        admission.reserve_bytes(90)
        with pytest.raises(HTTPError, match="90 of at most 100 bytes"):
            admission.reserve_bytes(11)
        assert limiter.num_bytes == 90
    assert (limiter.num_images, limiter.num_bytes) == (0, 0)


def test_no_client_holds_all_bytes() -> None:
    limiter = AdmissionLimiter(3, 100, max_client_bytes=50)
    with limiter.receive("192.0.2.1") as first, limiter.receive("192.0.2.2") as second:
        first.reserve_bytes(50)
        with pytest.raises(HTTPError, match="50 of at most 50 bytes in flight from this client") as refusal:
            first.reserve_bytes(1)
        assert refusal.value.status == 429
        second.reserve_bytes(50)
        assert limiter.num_bytes == 100
    assert (limiter.num_bytes, limiter.num_client_bytes) == (0, {})


def test_no_client_holds_all_images() -> None:
    limiter = AdmissionLimiter(4, 100, max_client_images=3)
    with limiter.admit("192.0.2.1") as first:
        first.reserve_images(2)
        for refused in (limiter.admit, limiter.receive):
            with pytest.raises(HTTPError, match="3 of at most 3 images in flight from this client") as refusal:
                refused("192.0.2.1")
            assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (429, "1")
        with limiter.receive("192.0.2.2") as second:
            second.reserve_images(1)
            with pytest.raises(HTTPError, match="4 of at most 4 images in flight;"):
                second.reserve_images(1)
    assert (limiter.num_images, limiter.num_client_images) == (0, {})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], "192.0.2.9"),
        (["198.51.100.1"], "198.51.100.1"),
        (["10.0.0.1, 198.51.100.1"], "198.51.100.1"),
        (["10.0.0.1", "198.51.100.1:4711"], "198.51.100.1"),
        (["2001:db8::1"], "2001:db8::/64"),
        (["10.0.0.1, [2001:db8::1]:80"], "2001:db8::/64"),
        (["10.0.0.1,"], "192.0.2.9"),
    ],
)
def test_the_last_address_of_the_proxy_header_is_the_client(headers: list[str], expected: str) -> None:
    raw = [(b"x-forwarded-for", value.encode()) for value in headers]
    request = Request({"type": "http", "client": ("192.0.2.9", 5), "headers": raw})
    assert client_of(request, "X-Forwarded-For") == expected
    assert client_of(request, "") == "192.0.2.9"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_client_is_an_address_or_a_network_of_64_bits(host: str, expected: str) -> None:
    assert client_key(host) == expected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_bytes": 0}, "max_bytes of at least 1"),
        ({"timeout_seconds": 0.0}, "above 0"),
        ({"timeout_seconds": float("nan")}, "above 0"),
        ({"max_in_flight": 8}, "max_in_flight 32"),
        ({"max_client_in_flight": 8}, "from max_images to max_in_flight; got: 8, not from 32 to 128; nearest"),
        ({"max_client_in_flight": 129}, "from max_images to max_in_flight; got: 129"),
        ({"client_header": "X Real"}, "the name of a header; got: 'X Real'"),
        ({"max_bytes_in_flight": 5}, "max_bytes_in_flight of at least"),
    ],
)
def test_invalid_settings_raise(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerSettings(**wrong)  # type: ignore[arg-type]
