"""Real text in, right vectors out: over HTTP, the command line and Python, all three the same."""

import json
import subprocess
from pathlib import Path

import numpy as np
from huggingface_hub import InferenceClient
from openai import OpenAI

import fledge

TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
PUBLISHED = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}


def assert_published(vectors: object) -> None:
    """The matrix that the model's page shows, to four digits."""
    matrix = np.asarray(vectors) @ np.asarray(vectors).T
    for pair, score in PUBLISHED.items():
        assert round(float(matrix[pair]), 4) == score


def test_openai_client(server_url: str) -> None:
    client = OpenAI(base_url=f"{server_url}/v1", api_key="none")

    answer = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)

    assert_published([item.embedding for item in answer.data])
    assert answer.usage.prompt_tokens == 8 + 9 + 8


def test_hugging_face_client(server_url: str) -> None:
    client = InferenceClient(base_url=server_url)

    assert_published(client.feature_extraction(TEXTS))
    assert client.feature_extraction(TEXTS[0]).shape == (1, 384)


def test_command_line(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    command = ["fledge", "embed", "--precision", "fp32"]

    piped = subprocess.run(
        [*command, *TEXTS], env=environment, capture_output=True, text=True, check=True
    )
    subprocess.run(
        [*command, "--input", "texts.txt", "--output", "vectors.npy"],
        env=environment,
        cwd=tmp_path,
        check=True,
    )

    assert_published([json.loads(line)["embedding"] for line in piped.stdout.splitlines()])
    assert_published(np.load(tmp_path / "vectors.npy"))


def test_python(minilm_folder: Path, tmp_path: Path) -> None:
    with fledge.load(str(minilm_folder), precision="fp32", cache_dir=tmp_path) as model:
        vectors = model.embed(TEXTS)

    assert_published(vectors)
    assert vectors.dtype == np.float32
