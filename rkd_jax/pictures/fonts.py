"""Text in any script: fonts for what a name is written in, and how large and where it is drawn.

DejaVu Sans (of matplotlib) has Latin, Greek, Cyrillic and more; Noto Sans CJK has Chinese, Japanese
and Korean, and the Noto Sans fonts of other packages Arabic, Hebrew, Devanagari, Thai and further
ones.  Where these packages are not installed, the fonts of the system are looked through.  A
character that no font has is drawn as DejaVu's empty box.
"""

import functools
import importlib.util
import os
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

# Packages of fonts, and the face of the file that is wanted where one file has several.
_PACKAGES = {"noto_cjk_sans_otc": 2, "manimgx_fonts": 0}  # simplified Chinese
_SYSTEM = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")
_SYSTEM += ("/System/Library/Fonts", "/Library/Fonts", "C:/Windows/Fonts")
_SUFFIXES = (".ttf", ".otf", ".ttc")

Face = tuple[Path, int]  # a file of fonts, and which of them


def faces() -> Iterator[Face]:
  """Fonts in the order in which they are asked for a character, those of the system last."""
  yield Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 0
  for package, face in _PACKAGES.items():
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
      # Upright ones, and those of scripts before those of symbols.
      files = [
        f for f in Path(folder).iterdir() if f.suffix in _SUFFIXES and "Italic" not in f.name
      ]
      yield from ((file, face) for file in sorted(files, key=lambda f: ("Emoji" in f.name, f.name)))
  for folder in _SYSTEM:
    for parent, _, names in os.walk(os.path.expanduser(folder)):
      yield from ((Path(parent, n), 0) for n in sorted(names) if n.lower().endswith(_SUFFIXES))


@functools.lru_cache(maxsize=8192)
def face_of(character: str) -> Face:
  """The first font that has a character, DejaVu Sans if none has."""
  first = next(faces())
  return next((face for face in faces() if ord(character) in _characters(face[0])), first)


@functools.lru_cache(maxsize=256)
def _characters(file: Path) -> frozenset[int]:
  try:
    return frozenset(FT2Font(file).get_charmap())
  except (RuntimeError, OSError):  # a file of the system that is no font
    return frozenset()


@functools.lru_cache(maxsize=256)
def _font(face: Face, size: int) -> ImageFont.FreeTypeFont:
  file, number = face
  return ImageFont.truetype(file, size, index=number)


def runs(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
  """The text in parts of one font each; a font goes on as long as it has the characters."""
  parts, last = [], face_of(text[0]) if text else None
  for character in text:
    joins = unicodedata.category(character) in ("Mn", "Me", "Cf")  # to what is before it
    if not joins and ord(character) not in _characters(last[0]):
      last = face_of(character)
    parts.append((character, last))
  grouped = groupby(parts, key=lambda part: part[1])
  return [("".join(c for c, _ in own), _font(face, size)) for face, own in grouped]


def length(text: str, size: int) -> float:
  """The width of a text in pixels."""
  return sum(font.getlength(part) for part, font in runs(text, size))


def extent(text: str, size: int) -> tuple[float, int, int]:
  """(width, pixels above the baseline, pixels below it) of a line of text, whatever its letters."""
  parts = runs(text, size) or runs("x", size)
  metrics = [font.getmetrics() for _, font in parts]
  # The fonts of large scripts have much room above and below.
  above = min(max(m[0] for m in metrics), round(1.05 * size))
  below = min(max(m[1] for m in metrics), round(0.35 * size))
  return length(text, size), above, below


def draw(canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: str):
  """Draws a line of text whose baseline begins at `place`."""
  x, y = place
  for part, font in runs(text, size):
    canvas.text((x, y), part, fill=fill, font=font, anchor="ls")
    x += font.getlength(part)


def shortened(text: str, size: int, width: float) -> str:
  """The text, shortened in the middle where it is wider than `width` pixels."""
  result = text
  for kept in range(len(text), 1, -1):
    if length(result, size) <= width:
      break
    half = kept // 2
    result = f"{text[:half]}…{text[len(text) - half :]}"
  return result
