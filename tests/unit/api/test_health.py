"""`/health/live` and `/health/ready` tell the truth: of threads, of keys, of a server that ends."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from fledge.accounts.accounts import Accounts
from fledge.accounts.keys import Key
from fledge.api.app import create_app
from fledge.api.middleware.draining import Drain
from fledge.engine.watch import STUCK_S, Watch
from fledge.errors import DatabaseUnavailable
from fledge.fixed import FixedDeployments, catalog_of
from fledge.service import Service
from fledge.settings import Settings
from fledge.testing import FakeBackend
from tests.unit.api.conftest import Serve
from tests.unit.engine.lane_bench import FATAL_ID, Bench, Model, TurnedClock, backend_of, eventually

LIVE, READY, HEALTH = "/health/live", "/health/ready", "/health"


class Stale(Accounts):
    """Keys that nobody has been able to check for an hour, until `is_stale` is taken away."""

    def __init__(self) -> None:
        self.is_stale = True

    @property
    def has_keys(self) -> bool:
        return True

    def find(self, secret: str) -> Key | None:
        if self.is_stale:
            raise DatabaseUnavailable("keys cannot be checked: no answer for 3600 s")
        return None


@contextmanager
def client_of(service: Service, drain: Drain | None = None) -> Iterator[TestClient]:
    app = create_app(service, service.settings, drain)
    with TestClient(app, base_url="http://127.0.0.1:8080") as client:
        yield client


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def bench(clock: TurnedClock) -> Iterator[Bench]:
    bench = Bench(watch=Watch(clock))
    yield bench
    bench.model.gate.set()
    bench.close()


@pytest.fixture
def client(bench: Bench) -> Iterator[TestClient]:
    """A server of one model, which shares its lane with the bench's."""
    backend = backend_of(bench.lane, Model())
    with client_of(Service.over([backend], Settings())) as client:
        yield client
        bench.model.gate.set()


def hang(bench: Bench, number: int = 1) -> None:
    bench.model.gate.clear()
    bench.submit(number)
    bench.model.wait_until_computing()


def status(client: TestClient, path: str) -> int:
    return client.get(path).status_code


def test_a_server_that_is_well_is_live_and_ready(serve: Serve) -> None:
    client = serve()
    for path in (LIVE, READY, HEALTH):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert client.head(path).status_code == 200


def test_a_server_whose_compute_thread_hangs_is_live_but_not_ready_until_it_goes_on(
    client: TestClient, bench: Bench, clock: TurnedClock
) -> None:
    hang(bench)
    assert status(client, READY) == 200
    clock.now_s += STUCK_S + 1

    response = client.get(READY)

    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert "the compute lane is stuck" in response.json()["reasons"]["org/model"]
    assert status(client, HEALTH) == 503
    assert status(client, LIVE) == 200
    bench.model.gate.set()
    assert eventually(lambda: status(client, READY) == 200)
    assert client.post("/", json={"inputs": "a"}).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_compute_thread_died_is_live_but_not_ready(
    client: TestClient, bench: Bench
) -> None:
    hang(bench, FATAL_ID)
    bench.model.gate.set()
    assert eventually(lambda: status(client, READY) == 503)
    assert client.get(READY).json()["reasons"] == {"org/model": "the compute lane died"}
    assert status(client, LIVE) == 200


def test_a_server_that_cannot_check_keys_is_live_but_not_ready() -> None:
    accounts, backend = Stale(), FakeBackend()
    deployments = FixedDeployments([backend])
    service = Service(catalog_of([backend]), deployments, Settings(), accounts=accounts)
    with client_of(service) as client:
        response = client.get(READY)
        assert response.status_code == 503
        assert response.json()["reasons"] == {
            "keys": "keys cannot be checked: no answer for 3600 s"
        }
        assert (status(client, LIVE), status(client, HEALTH)) == (200, 200)
        accounts.is_stale = False
        assert status(client, READY) == 200


def test_a_server_that_asks_for_no_keys_is_ready_without_them() -> None:
    backend = FakeBackend()
    deployments, settings = FixedDeployments([backend]), Settings(no_auth=True)
    service = Service(catalog_of([backend]), deployments, settings, accounts=Stale())
    with client_of(service) as client:
        assert status(client, READY) == 200


def test_a_server_that_is_being_stopped_is_live_but_not_ready() -> None:
    service = Service.over([FakeBackend()], Settings())
    with client_of(service, Drain(has_begun=True)) as client:
        response = client.get(READY)
        assert response.status_code == 503
        assert response.json() == {
            "status": "draining",
            "reasons": {"server": "it is being stopped"},
        }
        assert response.headers["connection"] == "close"
        live = client.get(LIVE)
        assert (live.status_code, live.json()) == (200, {"status": "ok"})
        assert live.headers["connection"] == "close"  # who asks again and again holds up nothing


def test_the_reference_says_what_the_answers_are(serve: Serve) -> None:
    paths = serve().get("/openapi.json").json()["paths"]
    assert set(paths[READY]["get"]["responses"]) >= {"200", "503"}
    assert "503" not in paths[LIVE]["get"]["responses"]
