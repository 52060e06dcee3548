"""What is made of vectors as a request wants them, and what its caller should know of them."""

from fledge.requests import Normalization
from fledge.types import EmbedResult, ModelCard, Vectors
from fledge.vectors import cut_dimensions, normalize


def provider_warnings(
    card: ModelCard, result: EmbedResult, normalization: Normalization
) -> tuple[str, ...]:
    """What a provider does otherwise than this machine would."""
    warnings = []
    if result.normalized and normalization is False:
        warnings.append(f"{card.deployment} offers vectors of length 1 only")
    if result.counts_estimated:
        warnings.append(f"{card.deployment} does not say how many tokens there were: estimated")
    return tuple(warnings)


def finished(
    card: ModelCard, result: EmbedResult, normalization: Normalization, dimensions: int | None
) -> Vectors:
    """Cut, then normalize: the other order would leave cut vectors shorter than 1."""
    if normalization == "model":
        wanted = card.normalizes
    elif normalization == "similarity":
        wanted = card.normalizes or card.similarity != "dot"
    else:
        wanted = normalization
    vectors = result.vectors
    is_cut = dimensions is not None and dimensions < vectors.shape[1]
    if dimensions is not None and is_cut:
        vectors = cut_dimensions(vectors, dimensions)
    # A backend may offer normalized vectors only; cut, they must not pass for the raw ones.
    if (wanted and (is_cut or not result.normalized)) or (result.normalized and is_cut):
        vectors = normalize(vectors)
    return vectors
