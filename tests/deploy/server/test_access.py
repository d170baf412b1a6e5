"""Token, host names and security headers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings


@pytest.fixture(scope="module")
def locked(runs: list[object], settings: ServerSettings) -> Iterator[TestClient]:
    with TestClient(create_app(runs[:1], replace(settings, token="sesame"))) as client:  # type: ignore[arg-type]
        yield client


@pytest.mark.parametrize(
    "given", [None, "", "sesame", "Bearer", "Bearer ", "Bearer wrong", "Basic sesame", "Bearer sesam", "Bearer sésame"]
)
def test_without_the_token_nobody_comes_in(locked: TestClient, given: str | None, png: bytes) -> None:
    headers = {} if given is None else {"Authorization": given.encode()}
    for method, way in (("POST", "/v1/predict"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json")):
        response = locked.request(method, way, content=png, headers=headers)  # type: ignore[arg-type]
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer" in response.json()["error"]


def test_with_the_token_all_is_open_and_the_probes_are_without(locked: TestClient, png: bytes) -> None:
    assert locked.post("/v1/predict", content=png, headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert locked.get("/healthz").status_code == 200
    assert locked.get("/readyz").status_code == 200


def test_on_loopback_other_host_names_are_rejected(weights: Path, settings: ServerSettings) -> None:
    """A foreign page whose host name points to this server (DNS rebinding) is rejected."""
    with TestClient(
        create_app([weights], replace(settings, allowed_hosts=("127.0.0.1", "localhost", "::1")))
    ) as client:
        for host, status in (
            ("evil.example:8000", 403),
            ("", 403),
            ("localhost.evil.example", 403),
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
            ("LOCALHOST", 200),
        ):
            assert client.get("/v1/models", headers={"Host": host}).status_code == status, host


def test_response_headers_keep_browsers_to_this_host(client: TestClient) -> None:
    for way in ("/healthz", "/v1/nothing", "/v1/models"):
        headers = client.get(way).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_metrics_count_routes_and_codes_but_no_unknown_names(client: TestClient, png: bytes) -> None:
    client.post("/v1/predict", content=png)
    client.get("/v1/secret-path")
    client.get("/v1/models/net/samples/3.png")
    client.request("BREW", "/v1/coffee")
    text = client.get("/metrics").text
    assert 'reslab_requests_total{code="200",method="POST",route="/v1/predict"}' in text
    assert 'route="/v1/models/{name}/samples/{number}.png"' in text
    assert 'reslab_request_seconds_bucket{le="0.005",route="/v1/predict"}' in text
    assert 'reslab_batch_size_count{model="net"}' in text
    assert "reslab_queue_depth 0.0" in text
    for stranger in ("secret-path", "coffee", "BREW"):
        assert stranger not in text


ORIGIN_CASES = [
    ({}, 200),
    ({"Origin": "http://localhost:8000"}, 200),
    ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
    ({"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": ""}, 403),
    ({"Origin": "http://evil.example/localhost:8000"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
]


def test_pages_of_other_origins_cannot_send_requests(weights: Path, settings: ServerSettings, png: bytes) -> None:
    """A browser sends these headers; a page of the server and one of an allowed origin are answered."""
    allowing = replace(settings, allowed_origins=("https://friend.example",))
    with TestClient(create_app([weights], allowing), base_url="http://localhost:8000") as client:
        for headers, status in ORIGIN_CASES:
            response = client.post("/v1/predict", content=png, headers=headers)
            assert response.status_code == status, headers
            if status == 403:
                assert "--allow-origin" in response.json()["error"]
                assert "access-control-allow-origin" not in response.headers
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get("/", headers=link).status_code == 200
        assert client.get("/v1/models", headers=link).status_code == 403


def test_allowed_origin_may_read_the_responses(weights: Path, settings: ServerSettings, png: bytes) -> None:
    allowing = replace(settings, allowed_origins=("https://friend.example",), token="sesame")
    origin = {"Origin": "https://friend.example"}
    with TestClient(create_app([weights], allowing)) as client:
        preflight_headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = client.options("/v1/predict", headers=origin | preflight_headers)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (
            200,
            "https://friend.example",
        )
        response = client.post("/v1/predict", content=png, headers=origin | {"Authorization": "Bearer sesame"})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (
            200,
            "https://friend.example",
        )
        assert client.post("/v1/predict", content=png, headers=origin).status_code == 401
        evil = client.options("/v1/predict", headers={"Origin": "https://evil.example"} | preflight_headers)
        assert (evil.status_code, "access-control-allow-origin" in evil.headers) == (400, False)


@pytest.mark.parametrize("origin", ["*", "friend.example", "https://friend.example/page", "file:///", "https://*.x"])
def test_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match=r"an origin.*https://example\.org"):
        ServerSettings(allowed_origins=(origin,))


def test_addresses_are_accepted_as_hosts_and_other_names_are_not(weights: Path, settings: ServerSettings) -> None:
    with TestClient(create_app([weights], replace(settings, allowed_hosts=("lab.example",)))) as client:
        for host, status in (("192.0.2.7:8000", 200), ("[2001:db8::1]", 200), ("lab.example", 200), ("lab", 403)):
            assert client.get("/v1/models", headers={"Host": host}).status_code == status, host
