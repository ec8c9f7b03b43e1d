"""The kinds of values that annotation files have, and what else is read as one without a loss.

Tools write numbers as text, flags as booleans and polygons as one flat list.  Such a value is taken
for what it says, and the reader counts it; a value that would lose something (1.5 as an id, NaN,
"abc" as a number) is refused.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Flag = Literal[0, 1]
Ids = list[Id]
# COCO's [x, y, width, height]; () where there is none.
Box = tuple[float, float, float, float]
# Run lengths are a mapping.
Segmentation = list[list[float]] | dict[str, msgspec.Raw] | None

# The key of an object that stands for a piece of a file that is no JSON value, such as NaN.
MARK = "not JSON"

_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}
# Doubles hold every integer below.
_EXACT = 2**53


class RefusedError(Exception):
  """A value that is not of its kind: what was expected, and which part of the value is wrong."""

  def __init__(self, expected: str, part: str = "", value: Any = None):
    super().__init__(expected)
    self.expected, self.part, self.value = expected, part, value


def shown(value: Any) -> str:
  """A value as it stands in messages: on one line, and cut where it is long."""
  text = _shown(value, depth=3)
  return text if len(text) <= 80 else f"{text[:77]}..."


def _shown(value: Any, depth: int) -> str:
  if isinstance(value, Mapping):
    if value.keys() == {MARK}:
      return str(value[MARK])
    return "{...}" if value else "{}"
  if isinstance(value, list | tuple):
    return f"[{', '.join(_shown(part, depth - 1) for part in value[:40])}]" if depth else "[...]"
  if isinstance(value, int) and not -(10**40) < value < 10**40:
    return "an integer of more than 40 digits"
  if value is None or isinstance(value, bool):
    return {None: "null", True: "true", False: "false"}[value]
  return repr(value)


def _from_text(value: Any, odd: set[str]) -> Any:
  """The number that a text writes in decimals; any other value as it is."""
  if not isinstance(value, str) or not _NUMBER.fullmatch(text := value.strip()):
    return value
  odd.add("as text")
  return int(text) if _INTEGER.fullmatch(text) else float(text)


def _integer(low: int, high: int) -> Callable[[Any, set[str]], int]:
  expected = f"an integer in [{low}, {high}]"

  def read(value: Any, odd: set[str]) -> int:
    number = _from_text(value, odd)
    if isinstance(number, float) and number.is_integer():
      if abs(number) >= _EXACT:
        raise RefusedError(f"{expected} without decimal point: from 2**53 on digits are lost in it")
      odd.add("as a decimal")
      number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
      raise RefusedError(expected)
    return number

  return read


def _number(value: Any, odd: set[str]) -> float:
  number = _from_text(value, odd)
  if isinstance(number, bool) or not isinstance(number, int | float):
    raise RefusedError("a finite number")
  try:
    number = float(number)
  except OverflowError:
    number = math.inf
  if not math.isfinite(number):
    raise RefusedError("a finite number")
  return number


def _numbers(value: list, odd: set[str]) -> list[float]:
  own = set()
  numbers = [_number(part, own) for part in value]
  odd |= {f"numbers {what}" for what in own}
  return numbers


def _area(value: Any, odd: set[str]) -> float:
  if value is None:
    odd.add("null")
    return math.nan
  return _number(value, odd)


def _flag(value: Any, odd: set[str]) -> int:
  if value is None:
    odd.add("null")
    return 0
  found = value
  if isinstance(value, bool):
    odd.add("as true or false")
  elif isinstance(value, str):
    found = _FLAGS.get(value.strip().lower(), _from_text(value, odd))
    odd.add("as text")
  elif isinstance(value, float):
    odd.add("as a decimal")
  if isinstance(found, str | list | dict) or found not in (0, 1):
    raise RefusedError("0 or 1 (or true, false)")
  return int(found)


def _text(value: Any, odd: set[str]) -> str:
  if not isinstance(value, str):
    raise RefusedError("a text")
  return value


def _box(value: Any, odd: set[str]) -> tuple[float, ...]:
  if value is None or value == []:
    return ()
  expected = "[x, y, width, height] as four finite numbers"
  if not isinstance(value, list) or len(value) != 4:
    raise RefusedError(expected)
  try:
    return tuple(_numbers(value, odd))
  except RefusedError:
    raise RefusedError(expected) from None


def _segmentation(value: Any, odd: set[str]) -> list[list[float]] | dict | None:
  if value is None or (isinstance(value, dict) and value.keys() != {MARK}):
    return value
  expected = "a list x, y, x, y, ... of finite numbers (or run lengths in place of the polygons)"
  if not isinstance(value, list):
    raise RefusedError(expected, "[0]", value)
  if value and not any(isinstance(part, list) for part in value):
    odd.add("as one flat list")
    value = [value]
  polygons = []
  for index, part in enumerate(value):
    corners = part
    if isinstance(part, list) and part and all(isinstance(c, list) and len(c) == 2 for c in part):
      odd.add("as pairs of numbers")
      corners = [number for corner in part for number in corner]
    try:
      if not isinstance(corners, list) or len(corners) % 2:
        raise RefusedError(expected)
      polygons.append(_numbers(corners, odd))
    except RefusedError:
      raise RefusedError(expected, f"[{index}]", part) from None
  return polygons


def _ids(value: Any, odd: set[str]) -> list[int]:
  read = READERS[Id]
  if not isinstance(value, list):
    raise RefusedError("a list of ids")
  return [read(part, odd) for part in value]


# By kind: the value, and what was odd about it is added to the set; RefusedError.
READERS: dict[Any, Callable[[Any, set[str]], Any]] = {
  Id: _integer(0, 2**63 - 1),
  Size: _integer(1, 2**31 - 1),
  Flag: _flag,
  Ids: _ids,
  Box: _box,
  Segmentation: _segmentation,
  float: _area,
  str: _text,
  str | None: lambda value, odd: None if value is None else _text(value, odd),
  Any: lambda value, odd: value,
}
