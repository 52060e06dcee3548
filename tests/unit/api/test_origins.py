"""Who may call a keyless instance: not a page of another site, not under a foreign name."""

import pytest

from tests.unit.api.conftest import Serve

BODY = {"input": "a"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.9.9.9:1",
        "localhost",
        "LOCALHOST:8080",
        "localhost.:80",
        "app.localhost",
        "[::1]:8080",
        "[::1]",
    ],
)
def test_a_loopback_host_is_answered(serve: Serve, host: str) -> None:
    assert serve().post("/v1/embeddings", json=BODY, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "user@127.0.0.1",
        "127.0.0.1/x",
        "192.168.1.5",
        "[::1",
        "127.0.0.1:port",
        "127.0.0.1:99999",
        "",
        "\xe9",
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/health", "/nope"])
def test_a_foreign_host_is_refused_on_every_route(serve: Serve, host: str, path: str) -> None:
    response = serve().get(path, headers={b"host": host.encode("latin-1")})
    assert response.status_code == 403
    assert response.headers["x-fledge-error"] == "not_allowed"


def test_listed_hosts_and_the_own_one_are_answered(serve: Serve) -> None:
    client = serve(host="10.0.0.7", allowed_hosts=("Embed.Example",))
    for host in ("10.0.0.7:8080", "embed.example", "EMBED.example:443"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    assert client.get("/health", headers={"host": "10.0.0.8"}).status_code == 403


def test_a_star_allows_any_host(serve: Serve) -> None:
    client = serve(allowed_hosts=("*",))
    assert client.get("/health", headers={"host": "any.example"}).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("192.168.1.5:8080", 200), ("evil.example", 403)])
def test_where_all_addresses_are_listened_on_any_address_is_answered_but_no_name(
    serve: Serve, host: str, status: int
) -> None:
    response = serve(host="0.0.0.0").get("/health", headers={"host": host})  # noqa: S104 - not bound
    assert response.status_code == status


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8080", "HTTP://127.0.0.1:8080", "https://127.0.0.1:8080"]
)
def test_pages_of_this_server_may_call_it(serve: Serve, origin: str) -> None:
    response = serve().post("/v1/embeddings", json=BODY, headers={"origin": origin})
    assert response.status_code == 200


def test_the_default_port_is_the_same_origin_named_or_not(serve: Serve) -> None:
    headers = {"host": "localhost", "origin": "http://localhost:80"}
    assert serve().get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "http://localhost:8080",
        "http://127.0.0.1:8080.evil.example",
        "file://",
        "chrome-extension://127.0.0.1:8080",
        "",
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_pages_of_other_origins_may_not(serve: Serve, origin: str, content_type: str) -> None:
    headers = {"origin": origin, "content-type": content_type}
    for path, field in (("/v1/embeddings", "message"), ("/", None)):
        response = serve().post(path, json=BODY, headers=headers)
        assert response.status_code == 403
        error = response.json()["error"]
        assert "cors_allow_origins" in (error[field] if field else error)
        assert "access-control-allow-origin" not in response.headers


def test_a_listed_origin_may_call_and_read_the_headers(serve: Serve) -> None:
    client = serve(cors_allow_origins=("https://app.example",))
    headers = {"origin": "https://app.example"}
    response = client.post("/v1/embeddings", json=BODY, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-fledge-truncated" in response.headers["access-control-expose-headers"]
    refused = client.post("/v1/embeddings", json=BODY, headers={"origin": "https://x.example"})
    assert refused.status_code == 403


def test_a_listed_origin_reads_errors_too(serve: Serve) -> None:
    client = serve(cors_allow_origins=("https://app.example",))
    response = client.post("/v1/embeddings", json={}, headers={"origin": "https://app.example"})
    assert response.status_code == 400
    assert response.headers["access-control-allow-origin"] == "https://app.example"


def test_a_preflight_is_answered_for_listed_origins_only(serve: Serve) -> None:
    client = serve(cors_allow_origins=("https://app.example",))
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-stainless-lang",
    }
    response = client.options("/v1/embeddings", headers=headers)
    assert response.status_code == 200
    assert "x-stainless-lang" in response.headers["access-control-allow-headers"]
    headers["origin"] = "https://evil.example"
    assert client.options("/v1/embeddings", headers=headers).status_code == 403


def test_a_star_allows_any_origin_even_none(serve: Serve) -> None:
    client = serve(cors_allow_origins=("*",))
    for origin in ("https://any.example", "null"):
        response = client.post("/v1/embeddings", json=BODY, headers={"origin": origin})
        assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("value", ["Bearer hf_x", "Bearer ", "nonsense", "Basic eDp5"])
def test_any_authorization_is_accepted_and_ignored(serve: Serve, value: str) -> None:
    response = serve().post("/v1/embeddings", json=BODY, headers={"authorization": value})
    assert response.status_code == 200
