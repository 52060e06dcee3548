"""The services that Fledge knows by name: where they are, and what is known of their ways. Data.

Which models they serve under which names is in the catalogue (`provider_ids`). Facts that no
documentation gives are guesses, and say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fledge.providers.cohere import CohereShape
from fledge.providers.huggingface import HuggingFaceShape
from fledge.providers.openai import FledgeShape, OpenAIShape
from fledge.providers.parts import PartLimits
from fledge.providers.shapes import Shape

_USUAL = PartLimits(max_inputs=128, max_text_bytes=300_000)
"""A guess: few services say what they take, and all take this."""

_OF_OPENAI = PartLimits(max_inputs=2048, max_text_bytes=300_000)
"""2,048 texts and 300,000 tokens, which no text of fewer bytes has."""

_OF_TEI = PartLimits(max_inputs=32, max_text_bytes=1_500_000)
"""Its defaults: 32 texts, and bodies of 2 MB, in which texts are a little longer than they are."""

_CONCURRENT = 8
"""A guess: enough to keep a service busy, and few enough for any plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What the settings of a provider need not say.

    Attributes:
        shape: how it is spoken to.
        base_url: where it is; None: the settings must say.
        key_variable: the environment variable that holds its key, where the settings name no other
            place; None: it wants none, unless the settings name one.
        limits: most of one request.
        max_concurrent_requests: most requests that are on their way to it at once.
        says_400_while_loading: see `fledge.providers.provider.Provider`.
    """

    shape: Shape
    base_url: str | None = None
    key_variable: str | None = None
    limits: PartLimits = _USUAL
    max_concurrent_requests: int = _CONCURRENT
    says_400_while_loading: bool = False


PRESETS: Mapping[str, Preset] = {
    "nebius": Preset(
        shape=OpenAIShape(),
        base_url="https://api.studio.nebius.ai/v1",
        key_variable="NEBIUS_API_KEY",
    ),
    "sambanova": Preset(
        shape=OpenAIShape(),
        base_url="https://api.sambanova.ai/v1",
        key_variable="SAMBANOVA_API_KEY",
    ),
    "scaleway": Preset(
        shape=OpenAIShape(),
        base_url="https://api.scaleway.ai/v1",
        key_variable="SCALEWAY_API_KEY",
    ),
    "featherless": Preset(
        shape=OpenAIShape(),
        base_url="https://api.featherless.ai/v1",
        key_variable="FEATHERLESS_API_KEY",
        # The smallest plan's units, of which an 8B model takes one.
        max_concurrent_requests=2,
        says_400_while_loading=True,
    ),
    "together": Preset(
        shape=OpenAIShape(),
        base_url="https://api.together.xyz/v1",
        key_variable="TOGETHER_API_KEY",
    ),
    "deepinfra": Preset(
        shape=OpenAIShape(),
        base_url="https://api.deepinfra.com/v1/openai",
        key_variable="DEEPINFRA_API_KEY",
    ),
    "openai": Preset(
        shape=OpenAIShape(takes_token_ids=True, asks_base64=True),
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        limits=_OF_OPENAI,
    ),
    "hf-inference": Preset(
        # Its models are run by `encode()`, which takes no parameters.
        shape=HuggingFaceShape(path="model", too_long="cut", puts_default_prompt=True),
        base_url="https://router.huggingface.co/hf-inference",
        key_variable="HF_TOKEN",
        limits=_OF_TEI,  # a guess
    ),
    "cohere": Preset(
        shape=CohereShape(),
        base_url="https://api.cohere.com",
        key_variable="COHERE_API_KEY",
        limits=PartLimits(max_inputs=96, max_text_bytes=1_500_000),
    ),
}
"""By the name of the provider."""

SHAPES: Mapping[str, Preset] = {
    "openai": Preset(shape=OpenAIShape()),
    "fledge": Preset(shape=FledgeShape(), limits=_OF_OPENAI),
    "vllm": Preset(shape=OpenAIShape(takes_token_ids=True, asks_base64=True), limits=_OF_OPENAI),
    "infinity": Preset(
        # It cuts without a word, and its `usage` counts characters.
        shape=OpenAIShape(too_long="cut", asks_base64=True, counts_tokens=False),
        limits=_OF_OPENAI,
    ),
    "tei": Preset(shape=HuggingFaceShape(path="embed"), limits=_OF_TEI),
    "endpoint": Preset(shape=HuggingFaceShape(path="root"), limits=_OF_TEI),
    "hf-inference": replace(PRESETS["hf-inference"], base_url=None, key_variable=None),
    "cohere": Preset(shape=CohereShape(), limits=PRESETS["cohere"].limits),
}
"""By what the settings call the shape of a provider that has a name of its own. None of them has a
key of itself: one goes only to an address that the settings name it for."""
