"""What Fledge adds to a provider's answer, over HTTP: `python -m benchmarks.routed`.

The provider is a fake on this machine that answers with the same body for ever, at once or after a
while as real ones do. One client asks it directly and through Fledge, by turns, on connections that
stay open; every text is new. Takes four minutes; keep the machine quiet.
"""

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.models import minilm_folder
from benchmarks.processes import HOST, ROOT, Echo, Server, Worker
from benchmarks.report import table
from benchmarks.results import describe_machine, load_average

OUTPUT = ROOT / "docs" / "benchmarks" / "routed.md"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DIMENSION = 384
TEXTS = (1, 32)
CLIENTS = (1, 64)
DELAYS_S = (0.0, 0.25)
"""The second one is what providers take, and leaves 64 clients at 256 requests a second. With none,
so many clients measure how long their line is."""

REQUESTS = 4000
"""Different ones, over and over: more than the cache below can hold."""

CACHE_BYTES = 2**20
MOST_ADDED_MS = 1.5
WAYS = ("direct", "routed")

PAGE = """\
# What is added to a provider's answer

Written by `python -m benchmarks.routed --output`; nothing here is typed by hand. A fake provider on
this machine answers with {dimension} numbers for each text, as JSON, at once or after
{delay_ms:.0f} ms; the same client asks it directly and through Fledge (`model:provider`, base64).
Every text is new, the cache and usage are on. The median of {rounds} rounds in which all take
turns. Load average before: {load:.2f}.

{rows}
- *added*: of each round the difference of the two, then the middle one.
- With 64 clients and a provider that answers at once, the client, Fledge and the provider want more
  cores than there are, and what is shown is how long a line of 64 is.

## Against the target

{targets}
{machine}"""


@dataclass(frozen=True, slots=True)
class Case:
    """What a provider is asked, how it answers, and how many ask at once."""

    delay_s: float
    texts: int
    clients: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one way: milliseconds, and requests a second."""

    p50_ms: float
    p99_ms: float
    per_s: float


class Rounds:
    """All that was measured."""

    def __init__(self) -> None:
        self._by: dict[tuple[Case, str], list[Measured]] = defaultdict(list)

    @property
    def cases(self) -> list[Case]:
        """Each once, in the order in which they came."""
        return list(dict.fromkeys(case for case, _ in self._by))

    def note(self, case: Case, way: str, result: dict[str, Any]) -> None:
        """Take what the load generator said."""
        times = sorted(result["milliseconds"])
        per_s = len(times) / result["seconds"]
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        self._by[case, way].append(Measured(p50, p99, per_s))

    def median(self, case: Case, way: str, what: str) -> float:
        """Of one number, over the rounds."""
        numbers: list[float] = [getattr(one, what) for one in self._by[case, way]]
        return statistics.median(numbers)

    def added(self, case: Case, what: str) -> float:
        """Of each round, then the middle one: a slow minute slows both."""
        pairs = zip(*(self._by[case, way] for way in WAYS), strict=True)
        numbers: list[float] = [getattr(b, what) - getattr(a, what) for a, b in pairs]
        return statistics.median(numbers)


def main() -> None:
    arguments = _arguments()
    load = load_average()
    rounds = Rounds()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        _measure(arguments, Path(folder), stack, rounds)
    head = ("provider takes", "texts", "clients", "", "requests/s", "p50", "p99")
    page = PAGE.format(
        dimension=DIMENSION,
        delay_ms=DELAYS_S[-1] * 1000,
        rounds=arguments.rounds,
        load=load,
        rows=table(head, list(_rows(rounds))),
        targets=table(("provider takes", "clients", "target", "added", ""), _targets(rounds)),
        machine=table(("", ""), describe_machine().items()),
    )
    print(page)
    if arguments.output:
        arguments.output.write_text(page, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.routed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--output", type=Path, nargs="?", const=OUTPUT)
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, folder: Path, stack: ExitStack, rounds: Rounds) -> None:
    load = stack.enter_context(Worker("benchmarks.load", log=folder / "load.log", environment={}))
    fakes = {
        f"far-{texts}-{number}": stack.enter_context(
            Echo(_body(texts), folder=folder, delay_s=delay_s)
        )
        for texts in TEXTS
        for number, delay_s in enumerate(DELAYS_S)
    }
    server = stack.enter_context(_server(folder, fakes))
    cases = [Case(*one) for one in ((d, t, c) for d in DELAYS_S for t in TEXTS for c in CLIENTS)]
    for round_number in range(arguments.rounds + 1):
        for case in cases:
            name = f"far-{case.texts}-{DELAYS_S.index(case.delay_s)}"
            for way, port in zip(WAYS, (fakes[name].port, server.port), strict=True):
                load.ask("connect", host=HOST, port=port, model=f"{MODEL}:{name}", headers={})
                load.ask("texts", name="some", texts=_texts(case.texts), per_request=case.texts)
                result = load.ask(
                    "throughput",
                    name="some",
                    clients=case.clients,
                    seconds=arguments.seconds,
                    # Else all answers come at once, and with them all of the next requests.
                    spread_s=case.delay_s,
                )
                if round_number:  # the first one opens connections
                    rounds.note(case, way, result)


def _texts(each: int) -> list[str]:
    count = max(REQUESTS // each, 200)
    return [f"text {index} of {each}, about feathers" for index in range(count * each)]


def _body(texts: int) -> bytes:
    """What a provider that speaks as OpenAI does answers for so many texts."""
    draw = random.Random(0).gauss  # noqa: S311 - no secret
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": [draw(0, 1) / DIMENSION**0.5 for _ in range(DIMENSION)],
        }
        for index in range(texts)
    ]
    usage = {"prompt_tokens": 9 * texts, "total_tokens": 9 * texts}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


def _server(folder: Path, fakes: dict[str, Echo]) -> Server:
    providers = {
        name: {
            "shape": "openai",
            "base_url": f"http://{HOST}:{fake.port}/v1",
            "max_concurrent_requests": max(CLIENTS),
            "price_per_million_tokens": 0.01,
            "models": {MODEL: "m"},
        }
        for name, fake in fakes.items()
    }
    environment = {
        "HF_HUB_OFFLINE": "1",
        "FLEDGE_DATA_DIR": str(folder / "data"),
        "FLEDGE_CACHE_DIR": str(folder / "cache"),
        "FLEDGE_CACHE_MEMORY_BYTES": str(CACHE_BYTES),
        "FLEDGE_CACHE_FILES_BYTES": "0",
        "FLEDGE_PROVIDERS": json.dumps(providers),
        "FLEDGE_ALLOW_PRIVATE_PROVIDERS": "true",
        # They are in no space at all.
        "FLEDGE_SPACE_CHECK": "off",
    }
    return Server(minilm_folder(), "bf16", log=folder / "server.log", environment=environment)


def _delay(case: Case) -> str:
    return f"{case.delay_s * 1000:.0f} ms"


def _rows(rounds: Rounds) -> Iterator[Sequence[str]]:
    for case in rounds.cases:
        first = (_delay(case), str(case.texts), str(case.clients))
        for way in WAYS:
            yield (
                *first,
                way,
                f"{rounds.median(case, way, 'per_s'):,.0f}",
                f"{rounds.median(case, way, 'p50_ms'):.2f} ms",
                f"{rounds.median(case, way, 'p99_ms'):.2f} ms",
            )
        yield (
            *first,
            "**added**",
            "",
            f"{rounds.added(case, 'p50_ms'):.2f} ms",
            f"{rounds.added(case, 'p99_ms'):.2f} ms",
        )


def _targets(rounds: Rounds) -> Iterator[Sequence[str]]:
    for case in rounds.cases:
        if case.texts == 1:
            added_ms = rounds.added(case, "p50_ms")
            verdict = "reached" if added_ms < MOST_ADDED_MS else "missed"
            yield (
                _delay(case),
                str(case.clients),
                f"p50 < {MOST_ADDED_MS} ms",
                f"{added_ms:.2f} ms",
                verdict,
            )


if __name__ == "__main__":
    main()
