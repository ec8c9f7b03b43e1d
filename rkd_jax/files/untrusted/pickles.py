"""A machine that runs pickles, and can make plain values only.

A pickle is a program.  Python's own machine calls whatever the program names, sizes its memory by
the numbers in it, and hashes keys of any depth.  This one has the same opcodes and no such reach:
names are answered by the caller's table, memory follows the bytes that are there, keys are plain,
and the number of steps is limited.
"""

import abc
import codecs
import pickle
import struct
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from rkd_jax.files.untrusted.reading import Allowance, ReadError, shown

# More than a training checkpoint has in its largest settings; two seconds, and 300 MB at the worst.
MAX_STEPS = 1_000_000
# Longer ones hash slowly, and integers beyond 2**61 can be made to collide.
_MAX_KEY = 2**60
_MAX_TUPLE_KEY = 8

_MARK = object()
_SCALARS = (str, int, float, bool, bytes, type(None))


class Name(NamedTuple):
  """What a pickle names: `call` answers where it is called or made an object of."""

  full: str
  call: Callable[..., Any] | None = None


class Stateful(abc.ABC):
  """An object of which a pickle sets the state after it is made."""

  @abc.abstractmethod
  def set_state(self, state: Any) -> None:
    """Takes the state; raises what it likes where that is none."""


class Steps:
  """The steps that pickles of one file may still take together."""

  def __init__(self):
    self.left = MAX_STEPS


class Machine:
  """Runs one pickle after the other from a file.

  Args:
    file: read from its position on.
    size: bytes from there to its end.
    resolve: gives the `Name` for a module and a name, or raises ReadError.
    persistent: gives what an identifier stands for, such as a storage in another place.
    allowance: what the file may ask for.
    steps: shared by the pickles inside a pickle.
  """

  def __init__(
    self,
    file: IO[bytes],
    size: int,
    resolve: Callable[[str, str], Name],
    persistent: Callable[[Any], Any],
    allowance: Allowance,
    steps: Steps,
  ):
    self._file, self._left = file, size
    self._resolve, self._persistent = resolve, persistent
    self._allowance, self._steps = allowance, steps
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}

  def run(self) -> Any:
    """The value of the next pickle.

    Raises:
      ReadError, ValueError, TypeError, LookupError, struct.error: it is no pickle, is cut off, or
        asks for what is not there.
    """
    self._stack, self._memo = [], {}
    while (code := self.read(1)) != pickle.STOP:
      if self._steps.left <= 0:
        raise ReadError(
          f"{self._allowance.path} holds a pickle of more than {MAX_STEPS:,} steps. Save the state"
          " dict alone: torch.save(model.state_dict(), NEW_FILE)."
        )
      self._steps.left -= 1
      if code not in _OPCODES:
        raise ValueError(f"the byte {code!r} is no opcode of a pickle")
      _OPCODES[code](self)
    return self._pop()

  def read(self, count: int) -> bytes:
    """The next bytes; ValueError if they are not there."""
    self._require(count)
    data = self._file.read(count)
    if len(data) != count:
      raise ValueError("the file ends too early")
    self._left -= count
    return data

  def rest(self) -> bytes:
    """All bytes that follow."""
    return self.read(self._left)

  def _require(self, count: int) -> None:
    if not 0 <= count <= self._left:
      raise ValueError(f"{count:,} bytes announced where {self._left:,} are left")

  def _line(self) -> bytes:
    line = self._file.readline(self._left)
    self._left -= len(line)
    if not line.endswith(b"\n"):
      raise ValueError("the file ends within a line")
    return line[:-1]

  def _number(self, format: str) -> Any:
    return struct.unpack(format, self.read(struct.calcsize(format)))[0]

  def _counted(self, format: str) -> bytes:
    return self.read(self._number(format))

  def _pop(self) -> Any:
    value = self._stack.pop()
    if value is _MARK:
      raise ValueError("a mark where a value is expected")
    return value

  def _to_mark(self) -> list[Any]:
    """What was pushed since the last mark, which goes, too."""
    at = len(self._stack) - 1
    while self._stack[at] is not _MARK:
      at -= 1
      if at < 0:
        raise ValueError("no mark")
    items = self._stack[at + 1 :]
    del self._stack[at:]
    return items

  def _push(self, value: Any) -> None:
    self._stack.append(value)

  def _top(self, kind: type) -> Any:
    if not self._stack or type(self._stack[-1]) is not kind:
      raise ValueError(f"no {kind.__name__} where items are added to one")
    return self._stack[-1]

  def _put(self, key: int) -> None:
    if not self._stack or self._stack[-1] is _MARK:
      raise ValueError("nothing to remember")
    self._memo[key] = self._stack[-1]

  def _get(self, key: int) -> None:
    if key not in self._memo:
      raise ValueError("nothing remembered under the key that is asked for")
    self._stack.append(self._memo[key])

  def _pop_any(self) -> None:
    self._stack.pop()

  def _set_items(self, items: list[Any]) -> None:
    if len(items) % 2:
      raise ValueError("a key without a value")
    fill_dict(self._top(dict), zip(items[::2], items[1::2]))

  def _add_items(self, items: list[Any]) -> None:
    self._top(set).update(map(plain_key, items))

  def _pairs(self) -> None:
    items = self._to_mark()
    self._push({})
    self._set_items(items)

  def _tuple(self, count: int) -> None:
    items = [self._pop() for _ in range(count)]
    self._push(tuple(items[::-1]))

  def _global(self, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
      raise ValueError("a name that is no text")
    self._push(self._resolve(module, name))

  def _global_of_lines(self) -> None:
    module, name = self._line().decode("utf-8"), self._line().decode("utf-8")
    self._global(module, name)

  def _global_of_stack(self) -> None:
    name, module = self._pop(), self._pop()
    self._global(module, name)

  def _call(self, function: Any, arguments: Any) -> None:
    if not isinstance(function, Name) or function.call is None or type(arguments) is not tuple:
      raise ValueError(f"a call of {shown(function)}")
    self._push(function.call(*arguments))

  def _reduce(self) -> None:
    arguments, function = self._pop(), self._pop()
    self._call(function, arguments)

  def _new_with_keywords(self) -> None:
    if self._pop() != {}:
      raise ValueError("an object made with keywords")
    self._reduce()

  def _instance(self) -> None:
    arguments = tuple(self._to_mark())
    self._global_of_lines()
    self._call(self._pop(), arguments)

  def _object(self) -> None:
    function, *arguments = self._to_mark()
    self._call(function, tuple(arguments))

  def _build(self) -> None:
    state = self._pop()
    target = self._stack[-1]
    if isinstance(target, Stateful):
      target.set_state(state)
    elif type(target) is not dict:  # Attributes of a dict, such as _metadata, are not looked at.
      raise ValueError(f"the state of {shown(target)}")

  def _refuse(self) -> None:
    raise ValueError("an opcode for what lies outside the file")


def plain_key(value: Any) -> Any:
  """The value, which must be fit for a key: plain, and a tuple of few plain ones at most."""
  if type(value) is tuple and len(value) <= _MAX_TUPLE_KEY:
    for item in value:
      if type(item) not in _SCALARS or (type(item) is int and abs(item) >= _MAX_KEY):
        raise ValueError(f"the key {shown(value)}")
  elif type(value) not in _SCALARS or (type(value) is int and abs(value) >= _MAX_KEY):
    raise ValueError(f"a {type(value).__name__} for a key, or one that is too large")
  return value


def fill_dict(target: dict, pairs: Any) -> dict:
  """Adds pairs to a dict; ValueError for a key that is not plain, or is there already."""
  for key, value in pairs:
    if plain_key(key) in target:
      raise ValueError(f"the key {shown(key)} twice in one dict")
    target[key] = value
  return target


def _integer(line: bytes) -> int | bool:
  return {b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else int(line)  # pyright: ignore[reportReturnType]


def _long(data: bytes) -> int:
  return int.from_bytes(data, "little", signed=True)


def _quoted(line: bytes) -> str:
  if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
    raise ValueError("a text without its quotes")
  return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _utf8(data: bytes) -> str:
  return data.decode("utf-8", "surrogatepass")


_OPCODES: dict[bytes, Callable[[Machine], Any]] = {
  pickle.PROTO: lambda m: m._number("<B"),
  pickle.FRAME: lambda m: m._require(m._number("<Q")),
  pickle.MARK: lambda m: m._push(_MARK),
  pickle.POP: Machine._pop_any,
  pickle.POP_MARK: lambda m: m._to_mark(),
  pickle.DUP: lambda m: m._push(m._stack[-1]),
  pickle.NONE: lambda m: m._push(None),
  pickle.NEWTRUE: lambda m: m._push(True),
  pickle.NEWFALSE: lambda m: m._push(False),
  pickle.INT: lambda m: m._push(_integer(m._line())),
  pickle.BININT: lambda m: m._push(m._number("<i")),
  pickle.BININT1: lambda m: m._push(m._number("<B")),
  pickle.BININT2: lambda m: m._push(m._number("<H")),
  pickle.LONG: lambda m: m._push(int(m._line().removesuffix(b"L"))),
  pickle.LONG1: lambda m: m._push(_long(m._counted("<B"))),
  pickle.LONG4: lambda m: m._push(_long(m._counted("<i"))),
  pickle.FLOAT: lambda m: m._push(float(m._line())),
  pickle.BINFLOAT: lambda m: m._push(m._number(">d")),
  # Strings of Python 2 are bytes, or texts.
  pickle.STRING: lambda m: m._push(_quoted(m._line())),
  pickle.BINSTRING: lambda m: m._push(m._counted("<i").decode("latin1")),
  pickle.SHORT_BINSTRING: lambda m: m._push(m._counted("<B").decode("latin1")),
  pickle.UNICODE: lambda m: m._push(m._line().decode("raw-unicode-escape")),
  pickle.BINUNICODE: lambda m: m._push(_utf8(m._counted("<I"))),
  pickle.SHORT_BINUNICODE: lambda m: m._push(_utf8(m._counted("<B"))),
  pickle.BINUNICODE8: lambda m: m._push(_utf8(m._counted("<Q"))),
  pickle.BINBYTES: lambda m: m._push(m._counted("<I")),
  pickle.SHORT_BINBYTES: lambda m: m._push(m._counted("<B")),
  pickle.BINBYTES8: lambda m: m._push(m._counted("<Q")),
  pickle.BYTEARRAY8: lambda m: m._push(m._counted("<Q")),
  pickle.EMPTY_LIST: lambda m: m._push([]),
  pickle.EMPTY_DICT: lambda m: m._push({}),
  pickle.EMPTY_SET: lambda m: m._push(set()),
  pickle.EMPTY_TUPLE: lambda m: m._push(()),
  pickle.TUPLE1: lambda m: m._tuple(1),
  pickle.TUPLE2: lambda m: m._tuple(2),
  pickle.TUPLE3: lambda m: m._tuple(3),
  pickle.TUPLE: lambda m: m._push(tuple(m._to_mark())),
  pickle.LIST: lambda m: m._push(m._to_mark()),
  pickle.DICT: Machine._pairs,
  pickle.FROZENSET: lambda m: m._push(frozenset(map(plain_key, m._to_mark()))),
  pickle.APPEND: lambda m: (lambda value: m._top(list).append(value))(m._pop()),
  pickle.APPENDS: lambda m: (lambda items: m._top(list).extend(items))(m._to_mark()),
  pickle.SETITEM: lambda m: (lambda value, key: m._set_items([key, value]))(m._pop(), m._pop()),
  pickle.SETITEMS: lambda m: m._set_items(m._to_mark()),
  pickle.ADDITEMS: lambda m: m._add_items(m._to_mark()),
  pickle.GET: lambda m: m._get(int(m._line())),
  pickle.BINGET: lambda m: m._get(m._number("<B")),
  pickle.LONG_BINGET: lambda m: m._get(m._number("<I")),
  pickle.PUT: lambda m: m._put(int(m._line())),
  pickle.BINPUT: lambda m: m._put(m._number("<B")),
  pickle.LONG_BINPUT: lambda m: m._put(m._number("<I")),
  pickle.MEMOIZE: lambda m: m._put(len(m._memo)),
  pickle.GLOBAL: Machine._global_of_lines,
  pickle.STACK_GLOBAL: Machine._global_of_stack,
  pickle.REDUCE: Machine._reduce,
  pickle.NEWOBJ: Machine._reduce,
  pickle.NEWOBJ_EX: Machine._new_with_keywords,
  pickle.INST: Machine._instance,
  pickle.OBJ: Machine._object,
  pickle.BUILD: Machine._build,
  pickle.BINPERSID: lambda m: m._push(m._persistent(m._pop())),
  pickle.PERSID: Machine._refuse,
  pickle.EXT1: Machine._refuse,
  pickle.EXT2: Machine._refuse,
  pickle.EXT4: Machine._refuse,
  pickle.NEXT_BUFFER: Machine._refuse,
  pickle.READONLY_BUFFER: Machine._refuse,
}
