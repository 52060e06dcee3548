"""The pickles in torch's checkpoints, read as data: nothing in a file can make anything run.

`torch.save` describes a dictionary of tensors in Python's pickle language, which can also name any
function and call it. Python's own machine for that language is not used here, so Fledge opens no
pickle still: this one knows the few instructions that dictionaries of tensors are written with. A
name is looked up in a fixed table of marks, a call of one makes a description of plain numbers or
is refused, and no object of a file has a behaviour that another could reach. There is no recursion,
and the steps, the bytes and the sizes are bounded.

Source of the instructions: `pickletools` of Python; of the names: `torch/serialization.py`
(`persistent_id`) and `torch/_utils.py` (`_rebuild_tensor_v2`) of torch 1.0 to 2.13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fledge.engine.tensorfile import DTYPES, MAX_RANK
from fledge.errors import CorruptModel, UnsupportedModel

MAX_PICKLE_BYTES = 2**24
"""About 250 bytes describe a tensor: enough for 60,000, and no memory to speak of."""

MAX_TEXT_BYTES = 2**16
"""Of a name; comparing longer ones a million times would take minutes."""

MAX_STEPS = 2**20
"""About 45 instructions describe a tensor: enough for 20,000, and a second of reading."""

MAX_SIZE = 2**62

ADVICE = (
    "load the model with sentence-transformers where you trust it, save it with "
    "save_pretrained(FOLDER, safe_serialization=True), which writes model.safetensors, "
    "and give Fledge that folder"
)


class Call(Enum):
    """What a checkpoint may call: marks, which cannot be called and have no state."""

    ORDERED_DICT = "collections.OrderedDict"
    TENSOR = "torch._utils._rebuild_tensor_v2"
    PARAMETER = "torch._utils._rebuild_parameter"


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of items somewhere else in the file: its key there, their type, and how many."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A view of a storage, as described; nothing of it is checked against the storage.

    Attributes:
        offset: the first item, counted in items from the storage's first.
        strides: items from one index of an axis to the next.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


NAMES: Mapping[str, Call | np.dtype[Any]] = {
    **{call.value: call for call in Call},
    "torch._utils._rebuild_tensor": Call.TENSOR,
    "torch.DoubleStorage": DTYPES["F64"],
    "torch.FloatStorage": DTYPES["F32"],
    "torch.HalfStorage": DTYPES["F16"],
    "torch.BFloat16Storage": DTYPES["BF16"],
    "torch.LongStorage": DTYPES["I64"],
    "torch.IntStorage": DTYPES["I32"],
    "torch.ShortStorage": DTYPES["I16"],
    "torch.CharStorage": DTYPES["I8"],
    "torch.ByteStorage": DTYPES["U8"],
    "torch.BoolStorage": DTYPES["BOOL"],
}
"""Every name that a checkpoint may use, by module and name, and what Fledge makes of it."""


class TorchPickle:
    """Reads the pickles that lie one after another in `data`.

    Attributes:
        position: the first byte behind the last pickle that was read.
        storages: what all tensors so far are views of, by key.

    Args:
        path: the file, for errors.
        data: bytes from which a pickle is read; it may end before the file does.
        position: where the first pickle begins.
    """

    def __init__(self, path: Path, data: bytes, position: int = 0) -> None:
        self.position = position
        self.storages: dict[str, Storage] = {}
        self._path = path
        self._data = data
        self._steps = 0
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The next pickle's value: dict, list, tuple, text, number, truth, None, `SavedTensor`.

        Raises:
            CorruptModel: it is cut off, contradicts itself, or is too large for a description.
            UnsupportedModel: it has more in it than tensors; the message names what.
        """
        self._stack, self._outer, self._memo = [], [], {}
        try:
            while (code := self._take(1)) != STOP:
                self._steps += 1
                if self._steps > MAX_STEPS:
                    self._corrupt(f"its description has more than {MAX_STEPS:,} steps")
                if code not in INSTRUCTIONS:
                    self._refuse(f"the pickle instruction {code!r}")
                instruction, argument = INSTRUCTIONS[code]
                instruction(self, argument)
            return self._stack.pop()
        except (
            IndexError,
            KeyError,
            ValueError,
        ) as error:  # an empty stack, no such memo, no UTF-8
            raise CorruptModel(
                f"{self._path}: its description is damaged near byte {self.position} "
                f"({type(error).__name__}); fetch the file again"
            ) from error

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptModel(f"{self._path}: {what}; the file is damaged: fetch it again")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedModel(
            f"{self._path} holds {what}, which is not part of a plain dictionary of tensors, and "
            f"Fledge runs no code from a file: {ADVICE}"
        )

    def _take(self, count: int) -> bytes:
        begin, self.position = self.position, self.position + count
        if self.position > len(self._data):
            self._corrupt("its description is cut off, or larger than any model's")
        return self._data[begin : self.position]

    def _number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    # The instructions, each with the argument that `INSTRUCTIONS` gives it.

    def _skip(self, width: int) -> None:
        """The protocol's number, or a frame's length: neither changes how this reads."""
        self._take(width)

    def _constant(self, value: Any) -> None:
        self._stack.append(value)

    def _unsigned(self, width: int) -> None:
        self._stack.append(self._number(width))

    def _signed(self, width: int) -> None:
        self._stack.append(int.from_bytes(self._take(width), "little", signed=True))

    def _long(self, width: int) -> None:
        self._signed(self._number(width))

    def _float(self, width: int) -> None:
        self._stack.append(float(np.frombuffer(self._take(width), ">f8")[0]))

    def _text(self, width: int) -> None:
        size = self._number(width)
        if size > MAX_TEXT_BYTES:
            self._corrupt(f"it has a text of {size} bytes, where names are expected")
        self._stack.append(self._take(size).decode())

    def _empty(self, kind: Callable[[], Any]) -> None:
        self._stack.append(kind())

    def _mark(self, _: None) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop(self, _: None) -> None:
        self._stack.pop()

    def _tuple(self, length: int | None) -> None:
        if length is None:
            items = self._since_mark()
        else:
            items = [self._stack.pop() for _ in range(length)][::-1]
        self._stack.append(tuple(items))

    def _put(self, width: int) -> None:
        self._memo[self._number(width)] = self._stack[-1]

    def _memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, width: int) -> None:
        self._stack.append(self._memo[self._number(width)])

    def _append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            self._corrupt("it appends to something that is no list")
        target.extend(items)

    def _set_item(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _set_items(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            self._corrupt("it fills something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # of other keys a hash would be taken, which a deeply nested tuple could not survive
            if type(key) is not str and type(key) is not int:
                self._corrupt("a key is neither a text nor a number")
            target[key] = value

    def _global(self, _: None) -> None:
        end = self._data.find(b"\n", self._data.find(b"\n", self.position) + 1)
        if end < self.position:
            self._corrupt("a name has no end")
        module, name, _rest = self._take(end + 1 - self.position).decode().split("\n")
        self._look_up(module, name)

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._look_up(module, name)

    def _look_up(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self._corrupt("a name is no text")
        if (full := f"{module}.{name}") not in NAMES:
            self._refuse(f"the name {full[:200]!r}")
        self._stack.append(NAMES[full])

    def _build(self, _: None) -> None:
        """State beside the content: of an OrderedDict it is `_metadata`, which nobody needs."""
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            self._refuse("an object with a state of its own")

    def _reduce(self, _: None) -> None:
        arguments, call = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple or not isinstance(call, Call):
            self._corrupt("it calls what is no function")
        if call is Call.TENSOR:
            self._stack.append(self._tensor(arguments))
        elif call is Call.PARAMETER:
            if not arguments or type(arguments[0]) is not SavedTensor:
                self._corrupt("a parameter has no tensor")
            self._stack.append(arguments[0])
        elif arguments:
            self._refuse("an OrderedDict as Python 2 wrote it")
        else:
            self._stack.append({})

    def _tensor(self, arguments: tuple[Any, ...]) -> SavedTensor:
        """`(storage, offset, shape, strides, requires_grad, hooks, metadata)`, the last 3 newer."""
        if not 4 <= len(arguments) <= 7 or type(arguments[0]) is not Storage:
            self._corrupt("a tensor's description is garbled")
        storage, offset, shape, strides = arguments[:4]
        if len(arguments) == 7 and arguments[6] not in (None, {}):
            self._refuse("a tensor with metadata (conjugate or negated)")
        if type(shape) is not tuple or type(strides) is not tuple:
            self._corrupt("a tensor's shape is garbled")
        if not len(shape) == len(strides) <= MAX_RANK:
            self._corrupt(f"a tensor has more than {MAX_RANK} axes, or not a stride for each")
        for number in (offset, *shape, *strides):
            self._check_natural(number)
        return SavedTensor(storage, offset, shape, strides)

    def _check_natural(self, number: Any) -> None:
        if type(number) is not int or not 0 <= number < MAX_SIZE:
            self._corrupt("a size or an offset is no natural number")

    def _persistent(self, _: None) -> None:
        """`("storage", type, key, device, count)`; before torch 1.6 also a view, since unused."""
        match self._stack.pop():
            case ("storage", np.dtype() as dtype, str() as key, str(), count):
                pass
            case ("storage", np.dtype() as dtype, str() as key, str(), count, None):
                pass
            case ("storage", *_):
                self._refuse("a storage of a kind that Fledge does not know")
            case _:
                self._corrupt("it refers to what is no storage")
        self._check_natural(count)
        storage = Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            self._corrupt(f"the storage {key[:40]!r} is described in two ways")
        self._stack.append(storage)


STOP = b"."

INSTRUCTIONS: Mapping[bytes, tuple[Callable[[TorchPickle, Any], None], Any]] = {
    b"\x80": (TorchPickle._skip, 1),  # PROTO
    b"\x95": (TorchPickle._skip, 8),  # FRAME
    b"N": (TorchPickle._constant, None),
    b"\x88": (TorchPickle._constant, True),
    b"\x89": (TorchPickle._constant, False),
    b"K": (TorchPickle._unsigned, 1),  # BININT1
    b"M": (TorchPickle._unsigned, 2),  # BININT2
    b"J": (TorchPickle._signed, 4),  # BININT
    b"\x8a": (TorchPickle._long, 1),  # LONG1
    b"G": (TorchPickle._float, 8),  # BINFLOAT
    b"X": (TorchPickle._text, 4),  # BINUNICODE
    b"\x8c": (TorchPickle._text, 1),  # SHORT_BINUNICODE
    b"}": (TorchPickle._empty, dict),
    b"]": (TorchPickle._empty, list),
    b")": (TorchPickle._empty, tuple),
    b"(": (TorchPickle._mark, None),
    b"0": (TorchPickle._pop, None),
    b"t": (TorchPickle._tuple, None),
    b"\x85": (TorchPickle._tuple, 1),
    b"\x86": (TorchPickle._tuple, 2),
    b"\x87": (TorchPickle._tuple, 3),
    b"q": (TorchPickle._put, 1),  # BINPUT
    b"r": (TorchPickle._put, 4),  # LONG_BINPUT
    b"\x94": (TorchPickle._memoize, None),
    b"h": (TorchPickle._get, 1),  # BINGET
    b"j": (TorchPickle._get, 4),  # LONG_BINGET
    b"a": (TorchPickle._append, None),
    b"e": (TorchPickle._appends, None),
    b"s": (TorchPickle._set_item, None),
    b"u": (TorchPickle._set_items, None),
    b"c": (TorchPickle._global, None),
    b"\x93": (TorchPickle._stack_global, None),
    b"b": (TorchPickle._build, None),
    b"R": (TorchPickle._reduce, None),
    b"Q": (TorchPickle._persistent, None),  # BINPERSID
}
"""All that protocols 2 to 5 write for dictionaries, lists and tuples of texts and numbers."""
