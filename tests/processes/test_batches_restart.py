"""A server that is killed in the middle of a batch, again and again: each line is answered once."""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from fledge.accounts.database import open_database
from fledge.accounts.usage_query import UsageQuery
from fledge.accounts.usage_report import usage_report
from fledge.batches.room import Bounds
from tests.servers import BIN, environment
from tests.static_folders import draw, save_static

LINES = 6000
KILLS = 4
ON_THEIR_WAY = Bounds(tokens=0).lines
PATIENCE_S = 120.0
WORDS = 200


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_static(tmp_path / "word-model", {"embedding.weight": draw(WORDS, 8)}, vocab=WORDS)
    return tmp_path


@contextmanager
def server(home: Path) -> Iterator[tuple["subprocess.Popen[str]", OpenAI]]:
    """`fledge serve` over the model; whoever leaves without having killed it, stops it."""
    settings = {"data_dir": home / "data", "models": str(home / "word-model"), "catalog": "none"}
    with (
        (home / "log.txt").open("a") as log,
        subprocess.Popen(
            [BIN / "fledge", "serve", "--port", "0"],
            env=environment(home, settings, online=False),
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            assert " on http://" in greeting, (home / "log.txt").read_text()
            url = greeting.split(" on ")[1].split()[0].rstrip(",.;")
            with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
                yield process, client
            if process.poll() is None:
                process.terminate()
                assert process.wait(60) == 0, (home / "log.txt").read_text()
        finally:
            process.kill()


def request(number: int) -> dict[str, Any]:
    text = f"w{number % WORDS} w{number // WORDS % WORDS} w2"
    body = {"input": f"{text} {number}", "model": "word-model"}
    return {"custom_id": str(number), "method": "POST", "url": "/v1/embeddings", "body": body}


def written(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def wait_until_written(output: Path, count: int) -> int:
    until = time.monotonic() + PATIENCE_S
    while (found := written(output)) < count:
        assert time.monotonic() < until, found
        time.sleep(0.005)
    return found


def counted(home: Path) -> dict[str, Any]:
    database = open_database(f"sqlite:///{home}/data/accounts.db")
    always = UsageQuery(since=date(2000, 1, 1), until=date(2100, 1, 1), group_by=())
    (row,) = usage_report(database, always)
    database.close()
    return row


def test_a_killed_server_goes_on_and_repeats_and_loses_nothing(home: Path) -> None:
    data = b"".join(json.dumps(request(number)).encode() + b"\n" for number in range(LINES))
    with server(home) as (process, client):
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
        output = home / "data" / "batches" / f"{batch.id}.output.jsonl"
        done = wait_until_written(output, LINES // (KILLS + 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in range(KILLS - 1):
        assert done < LINES
        before = output.read_bytes()
        with server(home) as (process, _):
            done = wait_until_written(output, done + LINES // (KILLS + 2))
            process.send_signal(signal.SIGKILL)
            process.wait()
        whole = before[: before.rfind(b"\n") + 1]
        # What was finished is as it was, in every byte.
        assert output.read_bytes().startswith(whole)
    with server(home) as (_, client):
        until = time.monotonic() + PATIENCE_S
        while (batch := client.batches.retrieve(batch.id)).status != "completed":
            assert time.monotonic() < until, batch
            time.sleep(0.05)
        assert batch.output_file_id is not None
        lines = [
            json.loads(line)
            for line in client.files.content(batch.output_file_id).text.splitlines()
        ]
    assert batch.request_counts is not None
    assert batch.request_counts.completed == LINES
    assert batch.request_counts.failed == 0
    assert Counter(line["custom_id"] for line in lines) == {str(n): 1 for n in range(LINES)}
    tokens = sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
    assert batch.usage is not None
    assert batch.usage.total_tokens == tokens
    usage = counted(home)
    # Lines on their way at a kill may be charged and not written, those before not yet counted.
    assert usage["requests"] <= LINES + KILLS * ON_THEIR_WAY
    assert usage["requests"] >= LINES // 4
    assert usage["errors"] == 0


def test_a_stopped_server_repeats_nothing_and_charges_every_line_once(home: Path) -> None:
    data = b"".join(json.dumps(request(number)).encode() + b"\n" for number in range(LINES))
    with server(home) as (_, client):
        file = client.files.create(file=("in.jsonl", data), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
        output = home / "data" / "batches" / f"{batch.id}.output.jsonl"
        wait_until_written(output, LINES // 4)
    assert 0 < written(output) < LINES
    assert output.read_bytes().endswith(b"\n")
    with server(home) as (_, client):
        until = time.monotonic() + PATIENCE_S
        while (batch := client.batches.retrieve(batch.id)).status != "completed":
            assert time.monotonic() < until, batch
            time.sleep(0.05)
    usage = counted(home)
    assert (usage["requests"], usage["texts"], usage["errors"]) == (LINES, LINES, 0)
