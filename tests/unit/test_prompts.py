"""What a caller says about the prompt, and what comes of it for one model or another."""

from collections.abc import Mapping

import pytest

from fledge.errors import InvalidRequest, UnknownPrompt
from fledge.prompts import INPUT_TYPES, Prompt, PromptChoice, check_prompt_length, choose_prompt
from fledge.testing import fake_card
from fledge.types import Side

NONE: Mapping[str, str] = {}
QWEN = {"query": "Instruct: search\nQuery: ", "document": ""}
E5 = {"query": "query: ", "passage": "passage: "}
NOMIC = {
    "search_query": "search_query: ",
    "search_document": "search_document: ",
    "clustering": "clustering: ",
    "classification": "classification: ",
}
JINA = {
    "retrieval.query": "Represent the query: ",
    "retrieval.passage": "Represent the document: ",
    "text-matching": "",
    "separation": "Cluster: ",
}
GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "Retrieval-query": "task: retrieval | query: ",
    "Clustering": "task: clustering | query: ",
    "STS": "task: sentence similarity | query: ",
}
STELLA = {
    "s2s_query": "Retrieve similar text.\nQuery: ",
    "s2p_query": "Retrieve passages.\nQuery: ",
}

CODE = {
    "nl2code_query": "Find the code: ",
    "nl2code_document": "Candidate code: ",
    "code2code_query": "Find the like: ",
    "code2code_document": "Candidate like: ",
}


def choose(prompts: Mapping[str, str], default: str | None = None, **choice: str) -> Prompt:
    card = fake_card(prompts=prompts, default_prompt_name=default)
    return choose_prompt(card, PromptChoice(**choice))  # type: ignore[arg-type] # by field


@pytest.mark.parametrize(
    ("prompts", "input_type", "name", "side"),
    [
        # the value itself
        (QWEN, "query", "query", "query"),
        (NOMIC, "search_query", "search_query", "query"),
        (NOMIC, "search_document", "search_document", "document"),
        (NOMIC, "clustering", "clustering", None),
        (NOMIC, "classification", "classification", None),
        (JINA, "retrieval.query", "retrieval.query", "query"),
        (JINA, "retrieval.passage", "retrieval.passage", "document"),
        (JINA, "separation", "separation", None),
        (E5, "passage", "passage", "document"),
        # the value in another spelling
        (JINA, "RETRIEVAL_QUERY", "retrieval.query", "query"),
        (GEMMA, "retrieval_query", "Retrieval-query", "query"),
        (GEMMA, "clustering", "Clustering", None),
        (NOMIC, "SEARCH_DOCUMENT", "search_document", "document"),
        # another name for the same
        (E5, "document", "passage", "document"),
        (E5, "corpus", "passage", "document"),
        (E5, "search_document", "passage", "document"),
        (E5, "retrieval.passage", "passage", "document"),
        (E5, "RETRIEVAL_DOCUMENT", "passage", "document"),
        (E5, "search_query", "query", "query"),
        (E5, "CODE_RETRIEVAL_QUERY", "query", "query"),
        (E5, "code.query", "query", "query"),
        (E5, "code.passage", "passage", "document"),
        (E5, "QUESTION_ANSWERING", "query", "query"),
        (NOMIC, "query", "search_query", "query"),
        (NOMIC, "document", "search_document", "document"),
        (JINA, "query", "retrieval.query", "query"),
        (JINA, "document", "retrieval.passage", "document"),
        (STELLA, "query", "s2p_query", "query"),
        (GEMMA, "text-matching", "STS", None),
        (GEMMA, "SEMANTIC_SIMILARITY", "STS", None),
        # the model's own names
        (STELLA, "s2s_query", "s2s_query", "query"),
        (STELLA, "S2S-query", "s2s_query", "query"),
        ({"poem": "rhyme: "}, "poem", "poem", None),
        # a task without a side
        (JINA, "retrieval", None, None),
        (JINA, "code", None, None),
        # a task with a side, by its ending
        (CODE, "nl2code.query", "nl2code_query", "query"),
        (CODE, "code2code.passage", "code2code_document", "document"),
        (E5, "nl2code.query", "query", "query"),
        (E5, "code2code.passage", "passage", "document"),
        (JINA, "qa.query", "retrieval.query", "query"),
        (JINA, "qa-document", "retrieval.passage", "document"),
        (NONE, "code2nl.document", None, "document"),
        # no prompt, no error
        (QWEN, "document", None, "document"),
        (QWEN, "passage", None, "document"),
        (QWEN, "clustering", None, None),
        (JINA, "text-matching", None, None),
        (JINA, "classification", None, None),
        (NONE, "query", None, "query"),
        (NONE, "text", None, None),
        *((NONE, value, None, side) for value, (side, _) in INPUT_TYPES.items()),
    ],
)
def test_an_input_type_finds_the_models_own_prompt(
    prompts: Mapping[str, str], input_type: str, name: str | None, side: Side | None
) -> None:
    prompt = choose(prompts, input_type=input_type)
    assert (prompt.name, prompt.side) == (name, side)
    assert prompt.text == (None if name is None else prompts[name])


@pytest.mark.parametrize(
    ("choice", "text", "name", "side"),
    [
        ({}, "query: ", "query", None),
        ({"prompt_name": ""}, None, None, None),
        ({"prompt": ""}, None, None, None),
        ({"prompt": "mine: "}, "mine: ", None, None),
        ({"prompt_name": "passage"}, "passage: ", "passage", None),
        ({"input_type": "document"}, "passage: ", "passage", "document"),
        # the text or the name decides on the prompt, and the type on the side alone
        ({"prompt": "mine: ", "input_type": "document"}, "mine: ", None, "document"),
        ({"prompt": "", "input_type": "document"}, None, None, "document"),
        ({"prompt_name": "query", "input_type": "document"}, "query: ", "query", "document"),
        ({"prompt_name": "", "input_type": "query"}, None, None, "query"),
    ],
)
def test_a_text_goes_before_a_name_and_a_name_before_a_type_and_that_before_the_default(
    choice: dict[str, str], text: str | None, name: str | None, side: Side | None
) -> None:
    assert choose(E5, "query", **choice) == Prompt(text, name, side)


@pytest.mark.parametrize("input_type", ["document", "clustering"])
def test_an_input_type_without_a_prompt_is_none_and_not_the_default(input_type: str) -> None:
    """The default may be the other side's. As encode_document of sentence-transformers."""
    assert choose({"query": "query: "}, "query", input_type=input_type).text is None


def test_without_prompts_and_without_a_choice_there_is_none() -> None:
    assert choose(NONE) == choose(E5) == Prompt()


def test_a_prompt_of_no_text_has_its_name_told_all_the_same() -> None:
    assert choose(QWEN, prompt_name="document") == Prompt(None, "document")


def test_an_unknown_prompt_is_refused_with_the_list_of_the_models_own() -> None:
    with pytest.raises(UnknownPrompt, match=r'no prompt "nope"; its prompts: query, passage'):
        choose(E5, prompt_name="nope")
    with pytest.raises(UnknownPrompt, match="its prompts: none") as caught:
        choose(NONE, prompt_name="Query", prefix="document_")
    assert caught.value.field == "document_prompt_name"


@pytest.mark.parametrize("name", ["input_type", "task"])
@pytest.mark.parametrize(
    "value", ["", "TASK_TYPE_UNSPECIFIED", "EMBEDDING_TASK_TYPE_UNSPECIFIED", "UNSPECIFIED"]
)
def test_an_input_type_that_says_nothing_leaves_the_default(name: str, value: str) -> None:
    """As Google's clients send it where nothing was chosen."""
    assert choose(E5, "query", **{name: value}) == Prompt("query: ", "query")
    assert choose(E5, **{name: value}) == Prompt()


@pytest.mark.parametrize(
    ("prompts", "input_type", "task", "name"),
    [
        (E5, "query", "query", "query"),
        (E5, "query", "retrieval.query", "query"),
        (E5, "passage", "RETRIEVAL_DOCUMENT", "passage"),
        (JINA, "query", "retrieval.query", "retrieval.query"),
        (NONE, "query", "retrieval.query", None),
        (E5, "", "query", "query"),
        (E5, "query", "", "query"),
        ({"query": "q: ", "retrieval.query": "q: "}, "query", "retrieval.query", "query"),
    ],
)
def test_an_input_type_and_a_task_of_one_meaning_go_together(
    prompts: Mapping[str, str], input_type: str, task: str, name: str | None
) -> None:
    assert choose(prompts, input_type=input_type, task=task).name == name


@pytest.mark.parametrize(
    ("prompts", "input_type", "task"),
    [
        (E5, "query", "passage"),
        (NONE, "query", "passage"),
        (NONE, "query", "classification"),
        (NOMIC, "clustering", "classification"),
        (GEMMA, "query", "retrieval.query"),
    ],
)
def test_an_input_type_and_a_task_of_two_meanings_are_refused(
    prompts: Mapping[str, str], input_type: str, task: str
) -> None:
    said = f'`input_type` is "{input_type}" and `parameters.task` is "{task}"; they are two names'
    card = fake_card(prompts=prompts)
    paths = {"task": "parameters.task"}
    choice = PromptChoice(input_type=input_type, task=task, paths=paths)
    with pytest.raises(InvalidRequest, match=said) as caught:
        choose_prompt(card, choice)
    assert caught.value.field == "parameters.task"


@pytest.mark.parametrize("value", ["nope", "image", "quer", "queryx", "x" * 10**6, "\ud800"])
def test_an_unknown_input_type_is_refused_with_those_known_and_the_models_own(value: str) -> None:
    known = r"known are query, .*document, .*, and the prompts of fledge/fake: s2s_query, s2p_q"
    with pytest.raises(InvalidRequest, match=known) as caught:
        choose(STELLA, task=value)
    assert caught.value.field == "task"
    assert len(str(caught.value)) < 1000


def test_an_unknown_input_type_is_refused_beside_a_prompt_too() -> None:
    for choice in ({"prompt": "mine: "}, {"prompt_name": "query"}):
        with pytest.raises(InvalidRequest, match='`input_type` is "nope"'):
            choose(E5, input_type="nope", **choice)


@pytest.mark.parametrize("text", ["mine: ", ""])
@pytest.mark.parametrize("name", ["query", "nope"])
def test_a_text_and_a_name_together_are_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match="`prompt` and `prompt_name` cannot both") as caught:
        choose(E5, prompt=text, prompt_name=name)
    assert caught.value.field == "prompt"


def test_a_text_beside_the_empty_name_is_the_text() -> None:
    assert choose(E5, "query", prompt="mine: ", prompt_name="") == Prompt("mine: ")
    assert choose(E5, "query", prompt="", prompt_name="") == Prompt()


@pytest.mark.parametrize("text", ["\ud800", "query: \udfff", "a" * 1000 + "\ud83d"])
def test_half_of_a_surrogate_pair_in_a_prompt_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="`document_prompt` is not valid Unicode") as caught:
        choose(E5, prompt=text, prefix="document_")
    assert caught.value.field == "document_prompt"


def test_only_a_text_of_the_callers_own_counts_against_the_characters_of_a_request() -> None:
    choice, texts = PromptChoice(), ["a", "b"]
    for prompt in (Prompt(), Prompt("four", "named"), Prompt("four")):
        check_prompt_length(prompt, choice, [*texts, [5]], 8)
    check_prompt_length(Prompt("four", "named"), choice, texts, 7)
    with pytest.raises(InvalidRequest, match=r"before 2 texts makes 8 characters; .* at most 7"):
        check_prompt_length(Prompt("four"), choice, texts, 7)
