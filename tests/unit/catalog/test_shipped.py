"""The catalogue that comes with Fledge: every fact in the form that its readers rely on."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, fields
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from fledge.catalog.catalog import Catalog
from fledge.catalog.shipped import read_entries, shipped_entries
from fledge.engine.architectures.registry import FAMILIES
from fledge.engine.modules import POOLING_MODES
from fledge.settings import DEFAULT_MODEL
from fledge.types import ModelEntry, Similarity
from tests.conftest import SHARED, require_folder

ENTRIES = shipped_entries()
BY_ID = {entry.id: entry for entry in ENTRIES}

STATIC_FAMILIES = {"static", "model2vec", "words", "bow"}

NAMED = (
    "sentence-transformers/all-MiniLM-L6-v2",
    "BAAI/bge-large-en-v1.5",
    "Qwen/Qwen3-Embedding-8B",
    "intfloat/e5-mistral-7b-instruct",
    "BAAI/bge-multilingual-gemma2",
)

LANGUAGES = {
    *("ar", "cs", "da", "de", "en", "es", "fr", "it", "ja"),
    *("ko", "nl", "no", "pl", "pt", "ru", "sv", "tr", "zh"),
}
"""Of ISO 639-1, those that have models here; a further one is to be looked up there first."""

LICENSES = {"apache-2.0", "mit", "cc-by-nc-4.0", "gemma", "other"}
"""As the hub spells them; a further one is to be looked up there first."""

PROVIDERS = {
    "deepinfra",
    "featherless",
    "hf-inference",
    "nebius",
    "sambanova",
    "scaleway",
    "together",
}

SMALL, LARGE = 50_000_000, 1_000_000_000


def raw() -> Any:
    return json.loads((files("fledge.catalog") / "models.json").read_bytes())


def those(fault: Callable[[ModelEntry], object]) -> list[str]:
    """The ids of the entries that have it."""
    return [entry.id for entry in ENTRIES if fault(entry)]


def names(entry: ModelEntry) -> set[str]:
    """Every name that leads to it, in lower case."""
    spelled = {entry.id, entry.id.rpartition("/")[2], *entry.aliases, *entry.provider_ids.values()}
    return {name.lower() for name in spelled}


def test_there_are_enough_models() -> None:
    assert len(ENTRIES) >= 60


def test_the_facts_have_the_types_of_an_entry() -> None:
    hints = get_type_hints(ModelEntry)
    facts: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is MISSING else field.default)
        for field in fields(ModelEntry)
        if field.name != "folder" and field.default_factory is MISSING
    }
    facts |= {name: (dict[str, str], {}) for name in ("provider_ids", "prompts")}
    shipped = create_model("Shipped", __config__=ConfigDict(extra="forbid"), **facts)
    TypeAdapter(list[shipped]).validate_json(json.dumps(raw()), strict=True)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TypeAdapter(shipped).validate_python({"id": "a/b", "dimensions": 3})


@pytest.mark.parametrize("name", ["dimensions", "folder"])
def test_a_fact_that_no_shipped_entry_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"org/model: there is no fact {name}"):
        read_entries(json.dumps([{"id": "org/model", name: "x"}]).encode())


def test_what_is_left_out_is_unknown() -> None:
    assert read_entries(b'[{"id": "org/model"}]') == (ModelEntry(id="org/model"),)


def test_lists_become_tuples_and_days_dates() -> None:
    facts = {"id": "org/model", "pooling": ["cls", "max"], "created": "2024-02-29"}
    (entry,) = read_entries(json.dumps([facts]).encode())
    assert entry == ModelEntry(id="org/model", pooling=("cls", "max"), created=date(2024, 2, 29))


def test_the_file_is_read_once() -> None:
    assert shipped_entries() is ENTRIES


def test_no_fact_is_said_to_be_empty() -> None:
    for facts in raw():
        empty = [name for name, fact in facts.items() if fact in (None, "", [], {}, False)]
        assert [name for name in empty if name != "normalizes"] == [], facts["id"]


def test_an_id_is_an_owner_and_a_name() -> None:
    form = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
    assert those(lambda entry: not form.fullmatch(entry.id)) == []


def test_no_model_is_said_to_lie_in_a_folder() -> None:
    assert those(lambda entry: entry.folder) == []


def test_ids_differ_in_more_than_case() -> None:
    assert len({entry.id.lower() for entry in ENTRIES}) == len(ENTRIES)


def test_no_name_leads_to_two_models() -> None:
    counts = Counter(name for entry in ENTRIES for name in names(entry))
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_name_leads_to_its_model() -> None:
    catalog = Catalog(ENTRIES)
    for entry in ENTRIES:
        for name in names(entry):
            assert catalog.find(name) is entry
            assert catalog.find(name.upper()) is entry


def test_an_alias_is_worth_its_line() -> None:
    for entry in ENTRIES:
        assert all(re.fullmatch(r"[a-z0-9.-]+", alias) for alias in entry.aliases), entry.id
        assert len(set(entry.aliases)) == len(entry.aliases), entry.id
        assert not {entry.id.rpartition("/")[2].lower()} & set(entry.aliases), "goes without saying"


def test_providers_are_those_with_a_route_of_their_own() -> None:
    assert those(lambda entry: entry.provider_ids.keys() - PROVIDERS) == []


def test_every_family_can_be_computed() -> None:
    assert those(lambda entry: entry.family not in {*FAMILIES, *STATIC_FAMILIES}) == []


def test_every_dimension_is_known_and_possible() -> None:
    assert those(lambda entry: not 32 <= (entry.dimension or 0) <= 8192) == []


def test_limits_are_possible() -> None:
    assert those(lambda entry: not 32 <= (entry.max_seq_length or 512) <= 2**17) == []


def test_a_model_has_more_parameters_than_a_vocabulary_needs() -> None:
    unknown = 10**12
    assert (
        those(lambda entry: (entry.parameters or unknown) < 10_000 * (entry.dimension or 0)) == []
    )


def test_matryoshka_sizes_descend_below_the_dimension() -> None:
    for entry in ENTRIES:
        sizes = [entry.dimension or 0, *entry.matryoshka_dimensions, 0]
        assert sizes == sorted(set(sizes), reverse=True), entry.id


def test_pooling_is_spoken_of_in_the_words_of_the_engine() -> None:
    assert those(lambda entry: set(entry.pooling) - set(POOLING_MODES)) == []


def test_similarity_is_spoken_of_in_the_words_of_the_engine() -> None:
    assert those(lambda entry: entry.similarity not in {None, *get_args(Similarity)}) == []


def test_vectors_meant_for_the_dot_product_keep_their_length() -> None:
    assert those(lambda entry: entry.similarity == "dot" and entry.normalizes is not False) == []


def test_languages_are_codes_or_multilingual_alone() -> None:
    assert those(lambda entry: set(entry.languages) - LANGUAGES - {"multilingual"}) == []
    assert those(lambda entry: "multilingual" in entry.languages and len(entry.languages) > 1) == []
    assert those(lambda entry: len(set(entry.languages)) < len(entry.languages)) == []
    assert those(lambda entry: not entry.languages) == []


def test_licences_are_spelled_as_on_the_hub() -> None:
    assert those(lambda entry: entry.license not in {None, *LICENSES}) == []


def test_every_model_was_published_in_the_past() -> None:
    first, today = date(2018, 10, 1), date.today()  # noqa: DTZ011 - a day, anywhere
    assert those(lambda entry: entry.created and not first <= entry.created <= today) == []


def test_a_default_prompt_is_among_the_prompts() -> None:
    assert those(lambda entry: entry.default_prompt_name not in {None, *entry.prompts}) == []


def test_prompts_have_names_and_some_of_them_a_text() -> None:
    assert those(lambda entry: "" in map(str.strip, entry.prompts)) == []
    assert those(lambda entry: entry.prompts and not any(entry.prompts.values())) == []


def test_prompts_have_the_names_that_models_use() -> None:
    known = {"query", "passage", "document", "search_query", "search_document"}
    tasks = {"web_search_query", "sts_query", "summarization_query", "bitext_query"}
    kinds = {*known, *tasks, "classification", "clustering"}
    assert those(lambda entry: entry.prompts.keys() - kinds) == []


def test_a_prompt_that_ends_in_a_word_leaves_room_before_the_text() -> None:
    """`query:text` was never trained on; Qwen3 and gemma2 are known not to want a space."""
    closed = ("\nQuery:", "\n<query>", "\uff1a")  # the last is the wide colon of Chinese
    for entry in ENTRIES:
        for text in filter(None, entry.prompts.values()):
            assert text.endswith((" ", *closed)), entry.id


def test_summaries_are_short_sentences() -> None:
    assert those(lambda entry: not re.fullmatch(r"[A-Z].{9,118}\.", entry.summary)) == []
    assert those(lambda entry: ". " in entry.summary) == []


def test_the_named_models_are_there() -> None:
    assert set(NAMED) <= BY_ID.keys()


def test_the_default_model_is_the_first() -> None:
    assert ENTRIES[0].id == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("provider", "name", "id"),
    [
        ("sambanova", "E5-Mistral-7B-Instruct", "intfloat/e5-mistral-7b-instruct"),
        ("scaleway", "bge-multilingual-gemma2", "BAAI/bge-multilingual-gemma2"),
        ("scaleway", "qwen3-embedding-8b", "Qwen/Qwen3-Embedding-8B"),
        ("nebius", "Qwen/Qwen3-Embedding-8B", "Qwen/Qwen3-Embedding-8B"),
        ("featherless", "Qwen/Qwen3-Embedding-8B", "Qwen/Qwen3-Embedding-8B"),
        ("hf-inference", "BAAI/bge-large-en-v1.5", "BAAI/bge-large-en-v1.5"),
        ("hf-inference", "microsoft/harrier-oss-v1-0.6b", "microsoft/harrier-oss-v1-0.6b"),
        ("deepinfra", "Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B"),
        (
            "together",
            "intfloat/multilingual-e5-large-instruct",
            "intfloat/multilingual-e5-large-instruct",
        ),
    ],
)
def test_the_names_that_providers_give_are_known(provider: str, name: str, id: str) -> None:
    assert BY_ID[id].provider_ids[provider] == name


def test_some_are_recommended_of_every_size_and_for_every_reader() -> None:
    chosen = [entry for entry in ENTRIES if entry.is_recommended]
    assert 8 <= len(chosen) <= 12
    sizes = [entry.parameters for entry in chosen if entry.parameters is not None]
    assert any(size < SMALL for size in sizes)
    assert any(SMALL <= size < LARGE for size in sizes)
    assert any(size >= LARGE for size in sizes)
    assert {"en", "multilingual"} <= {entry.languages[0] for entry in chosen}
    assert any(entry.family in STATIC_FAMILIES for entry in chosen)
    assert any((entry.max_seq_length or 0) >= 8192 for entry in chosen)


def bert_parameters(*, vocab: int, hidden: int, layers: int, feed_forward: int) -> int:
    """Numbers of a BERT checkpoint with 512 positions, two segments and a pooler."""
    embeddings = (vocab + 512 + 2) * hidden + 2 * hidden
    attention = 4 * (hidden + 1) * hidden + 2 * hidden
    dense = (hidden + 1) * feed_forward + (feed_forward + 1) * hidden + 2 * hidden
    return embeddings + layers * (attention + dense) + (hidden + 1) * hidden


@pytest.mark.parametrize(
    ("id", "hidden", "layers", "feed_forward"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", 384, 6, 1536),
        ("BAAI/bge-small-en-v1.5", 384, 12, 1536),
        ("BAAI/bge-base-en-v1.5", 768, 12, 3072),
        ("BAAI/bge-large-en-v1.5", 1024, 24, 4096),
    ],
)
def test_parameters_are_counted_as_the_hub_counts_them(
    id: str, hidden: int, layers: int, feed_forward: int
) -> None:
    counted = bert_parameters(vocab=30522, hidden=hidden, layers=layers, feed_forward=feed_forward)
    assert BY_ID[id].parameters == counted


def test_the_default_model_is_described_as_its_folder_says(minilm_folder: Path) -> None:
    entry = BY_ID[DEFAULT_MODEL]

    def read(name: str) -> Any:
        return json.loads((minilm_folder / name).read_bytes())

    assert entry.family == read("config.json")["model_type"]
    assert entry.dimension == read("config.json")["hidden_size"]
    assert entry.max_seq_length == read("sentence_bert_config.json")["max_seq_length"]
    assert entry.pooling == ("mean",)
    assert read("1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    assert entry.normalizes is read("modules.json")[-1]["type"].endswith("Normalize")
    assert dict(entry.prompts) == read("config_sentence_transformers.json").get("prompts", {})
    header_size = 8
    with (minilm_folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(header_size), "little")))
    sizes = [
        _size(tensor["shape"])
        for tensor in header.values()
        if tensor.get("dtype", "").startswith(("F", "BF"))
    ]
    assert entry.parameters == sum(sizes)


def test_a_static_model_is_described_as_its_folder_says() -> None:
    folder = require_folder(SHARED / "models" / "potion-base-2M", "../shared/models is not here")
    entry = BY_ID["minishlab/potion-base-2M"]
    config = json.loads((folder / "config.json").read_bytes())
    assert (entry.family, entry.dimension) == (config["model_type"], config["hidden_dim"])
    assert entry.normalizes is config["normalize"]
    assert entry.parameters == 29_528 * 64


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
