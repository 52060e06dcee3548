"""What answers cost that were computed before, over HTTP: `python -m benchmarks.cached`.

A server as it comes, one that also asks for a key with every kind of limit, and one that keeps no
accounts at all; beside them the web server alone, which echoes the same body. They take turns, on
connections that stay open. Takes three minutes; keep the machine quiet.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.load import NEW_VECTORS
from benchmarks.models import minilm_folder
from benchmarks.processes import HOST, ROOT, Echo, Server, Worker
from benchmarks.report import table
from benchmarks.results import describe_machine, load_average
from fledge.accounts.key_store import KeyStore
from fledge.accounts.keys import KeySpec
from fledge.settings import Settings
from fledge.stores import open_database

OUTPUT = ROOT / "docs" / "benchmarks" / "cached.md"
TEXTS = (1, 100)
CLIENTS = (1, 64)
REQUESTS = 20
"""Different ones, over and over."""

ASKED_OF_ECHO = 0.4
MOST_COST = 0.1
AMPLE = 2**40
"""A limit that is looked at and never reached."""

PAGE = """\
# Answers that were computed before

Written by `python -m benchmarks.cached --output`; nothing here is typed by hand. All-MiniLM-L6-v2
in bf16, base64, {requests} different requests over and over, each of them asked before; the median
of {rounds} rounds in which all take turns. Load average before: {load:.2f}.

{rows}
- *echo*: the same web server, with nothing behind it, answers with the body of such an answer.
  *echo, all headers*: and with as many headers as Fledge sends.
- *repeated*: requests that came before in every byte. *cached*: the same where whole answers are
  not kept (`cache_answers_bytes = 0`), as for requests that are new but whose texts are not.
- *uncached*: the same with `x-use-cache: false`.
- *no accounts*: `database_url = "none"`; *with a key*: a key is asked for that has limits on
  requests, tokens and running requests, and a budget; usage is counted.
- What bounds *repeated*: the web server itself (an echo), some 45 us of Python on the way in and
  out (layers, the look-up, the account, metrics), and about 2 us for each header of the answer. A
  key adds some 15 us of accounts and eight headers about its limits, which is much beside so
  little.
- What bounds *cached*: reading, checking and writing JSON, and one hash for each text.

## Against the targets

{targets}
{machine}"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to be answered: by whom, and with which headers."""

    name: str
    port: int
    headers: Mapping[str, str]


@dataclass(slots=True)
class Rates:
    """What the rounds gave, by way, texts and clients."""

    per_s: dict[tuple[str, int, int], list[float]]
    milliseconds: dict[tuple[str, int, int], list[float]]

    def median(self, way: str, texts: int, clients: int) -> float:
        return statistics.median(self.per_s[way, texts, clients])

    def ratio(self, way: str, other: str, texts: int, clients: int) -> float:
        """Of each round, then the middle one: a slow minute slows both."""
        pairs = zip(self.per_s[way, texts, clients], self.per_s[other, texts, clients], strict=True)
        return statistics.median(one / two for one, two in pairs)


def main() -> None:
    arguments = _arguments()
    load = load_average()
    rates = Rates(defaultdict(list), defaultdict(list))
    with TemporaryDirectory() as folder, ExitStack() as stack:
        _measure(arguments, Path(folder), stack, rates)
    page = PAGE.format(
        requests=REQUESTS,
        rounds=arguments.rounds,
        load=load,
        rows=table(
            ("texts", "clients", "", "requests/s", "p50", "p99", "of echo"), list(_rows(rates))
        ),
        targets=table(("texts", "clients", "target", "reached", ""), list(_targets(rates))),
        machine=table(("", ""), describe_machine().items()),
    )
    print(page)
    if arguments.output:
        arguments.output.write_text(page, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.cached", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--output", type=Path, nargs="?", const=OUTPUT)
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, folder: Path, stack: ExitStack, rates: Rates) -> None:
    load = stack.enter_context(Worker("benchmarks.load", log=folder / "load.log", environment={}))
    usual = stack.enter_context(_server(folder, "usual", {}))
    secret = _make_key(folder / "keyed")
    keyed = stack.enter_context(_server(folder, "keyed", {}, secret))
    none = stack.enter_context(_server(folder, "none", {"FLEDGE_DATABASE_URL": "none"}))
    texts_only = stack.enter_context(_server(folder, "texts", {"FLEDGE_CACHE_ANSWERS_BYTES": "0"}))
    key = {"Authorization": f"Bearer {secret}"}
    for texts in TEXTS:
        requests = [f"text {index} of {texts}, about feathers" for index in range(REQUESTS * texts)]
        body, headers = usual.answer(requests[:texts])
        echo = stack.enter_context(Echo(body, folder=folder))
        like = stack.enter_context(Echo(body, folder=folder, headers=headers))
        ways = [
            Way("echo", echo.port, {}),
            Way("echo, all headers", like.port, {}),
            Way("repeated", usual.port, {}),
            Way("repeated, no accounts", none.port, {}),
            Way("repeated, with a key", keyed.port, key),
            Way("cached", texts_only.port, {}),
            Way("uncached", usual.port, NEW_VECTORS),
        ]
        for round_number in range(arguments.rounds + 1):
            for way in ways:
                for clients in CLIENTS:
                    result = _ask(load, way, requests, texts, clients, arguments.seconds)
                    if round_number:  # the first one fills the caches
                        _note(rates, way.name, texts, clients, result)


def _server(folder: Path, name: str, more: Mapping[str, str], secret: str | None = None) -> Server:
    environment = {
        "HF_HUB_OFFLINE": "1",
        "FLEDGE_DATA_DIR": str(folder / name),
        "FLEDGE_CACHE_DIR": str(folder / f"cache-{name}"),
    }
    return Server(
        minilm_folder(),
        "bf16",
        log=folder / f"{name}.log",
        environment={**environment, **more},
        secret=secret,
    )


def _make_key(data_dir: Path) -> str:
    database = open_database(Settings(data_dir=data_dir))
    try:
        spec = KeySpec(
            name="bench",
            requests_per_minute=AMPLE,
            tokens_per_minute=AMPLE,
            concurrent_requests=AMPLE,
            monthly_token_budget=AMPLE,
        )
        return KeyStore(database).create(spec).secret
    finally:
        database.close()


def _ask(
    load: Worker, way: Way, texts: Sequence[str], each: int, clients: int, seconds: float
) -> dict[str, Any]:
    model = "sentence-transformers/all-MiniLM-L6-v2"
    load.ask("connect", host=HOST, port=way.port, model=model, headers=way.headers)
    load.ask("texts", name="some", texts=texts, per_request=each)
    result: dict[str, Any] = load.ask("throughput", name="some", clients=clients, seconds=seconds)
    return result


def _note(rates: Rates, way: str, texts: int, clients: int, result: Mapping[str, Any]) -> None:
    times = result["milliseconds"]
    rates.per_s[way, texts, clients].append(len(times) / result["seconds"])
    rates.milliseconds[way, texts, clients].extend(times)


def _rows(rates: Rates) -> Iterator[Sequence[str]]:
    for (way, texts, clients), times in sorted(
        rates.milliseconds.items(), key=lambda item: item[0][1:]
    ):
        times.sort()
        yield (
            str(texts),
            str(clients),
            way,
            f"{rates.median(way, texts, clients):,.0f}",
            f"{times[len(times) // 2]:.2f} ms",
            f"{times[int(len(times) * 0.99)]:.2f} ms",
            f"{rates.ratio(way, 'echo', texts, clients):.0%}",
        )


def _targets(rates: Rates) -> Iterator[Sequence[str]]:
    for texts in TEXTS:
        for clients in CLIENTS:
            of_echo = rates.ratio("repeated", "echo", texts, clients)
            yield _target(
                texts, clients, f"repeated / echo >= {ASKED_OF_ECHO:.0%}", of_echo, ASKED_OF_ECHO
            )
            kept = rates.ratio("repeated, with a key", "repeated, no accounts", texts, clients)
            yield _target(
                texts,
                clients,
                f"key, limits and usage cost <= {MOST_COST:.0%}",
                kept,
                1 - MOST_COST,
            )


def _target(texts: int, clients: int, what: str, reached: float, asked: float) -> Sequence[str]:
    verdict = "reached" if reached >= asked else "missed"
    return str(texts), str(clients), what, f"{reached:.0%}", verdict


if __name__ == "__main__":
    main()
