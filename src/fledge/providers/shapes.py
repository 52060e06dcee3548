"""What wire shapes have in common: a question becomes a call, and the reply becomes a reading.

Pure data and a protocol: nothing here sends anything. A shape knows how one kind of service spells
things; what it cannot spell is done, or refused, by `fledge.providers.backend`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from fledge.types import Item, Side, TruncationSide, Vectors

TooLong: TypeAlias = Literal["asked", "refused", "cut"]
"""What becomes of a text with more tokens than the model takes. `asked`: what each request says;
`refused`: it always is; `cut`: it always is, on the right, and nothing says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one request asks.

    Attributes:
        model: the provider's own name for it.
        inputs: all texts, with the prompt put before each already, or all lists of token ids.
        cuts: whether inputs that are too long are to be cut; else they are to be refused.
        cut_side: the side that is cut away; None: the one that the model's tokenizer names.
        side: of a search, where the shape can say it.
    """

    model: str
    inputs: Sequence[Item]
    cuts: bool = False
    cut_side: TruncationSide | None = None
    side: Side | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A POST of JSON.

    Attributes:
        path: what follows the base URL: "" or begins with a slash.
        body: JSON.
    """

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        headers: by their names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether it should hold vectors."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reply holds.

    Attributes:
        vectors: `[n, dim]` float32, in the order of the inputs, finite.
        total_tokens: of all inputs together; None: it does not say.
        cut_count: how many inputs were cut; None: it does not say.
    """

    vectors: Vectors
    total_tokens: int | None = None
    cut_count: int | None = None


class WrongAnswer(Exception):
    """A reply that holds no vectors for the inputs; the message goes on from "answered with"."""


class Shape(Protocol):
    """How one kind of service is spoken to."""

    @property
    def too_long(self) -> TooLong:
        """See `TooLong`."""
        ...

    @property
    def takes_token_ids(self) -> bool:
        """Whether it embeds ids of the model's own tokenizer as they are."""
        ...

    @property
    def puts_default_prompt(self) -> bool:
        """Whether it puts the model's default prompt before every text, and cannot be told not
        to."""
        ...

    def call(self, question: Question) -> Call:
        """What is to be sent."""
        ...

    def read(self, reply: Reply, count: int) -> Reading:
        """What came back for so many inputs.

        Raises:
            WrongAnswer: not one vector for each.
        """
        ...
