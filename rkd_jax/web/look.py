"""What the page and the endpoint ask of detectors: limits, turns, and results that are kept.

Files come from strangers: they are bytes here, are decoded by `records.decoding` alone, and one at
a time, so that memory does not grow with the number of visitors.
"""

import collections
import dataclasses
import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from PIL import Image
from pydantic import BaseModel

from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.result import Result
from rkd_jax.pictures.draw import Picture, fitted
from rkd_jax.records import decoding

MAX_MEGABYTES = 25.0
# Requests that may be there at once, and words of each.
MOST_WAITING, MOST_WORDS = 16, 1000
# Results that are kept, with a picture of at most so many pixels a side: 8 MB each.
_KEPT, _LONGEST_SIDE = 16, 1600
# What a page has no flags for.
_FLAGS = re.compile(r"(, remove its record)?, or pass --skip_bad_images")


class ImageSize(BaseModel):
  """An image of COCO's."""

  id: int
  file_name: str
  height: int
  width: int


class Category(BaseModel):
  """A word that was looked for."""

  id: int
  name: str


class Mask(BaseModel):
  """Run lengths as `pycocotools.mask.decode` takes them."""

  size: tuple[int, int]
  counts: str


class Box(BaseModel):
  """A COCO result that is an annotation as well; `bbox` is [x, y, width, height] in pixels."""

  id: int
  image_id: int
  category_id: int
  category: str
  bbox: tuple[float, float, float, float]
  score: float
  area: float
  iscrowd: int = 0
  segmentation: Mask | None = None


class Answer(BaseModel):
  """What a run found on an image; `COCO` reads it, and `COCO.loadRes` its `annotations`."""

  run: str
  images: list[ImageSize]
  categories: list[Category]
  annotations: list[Box]


class TooManyError(RuntimeError):
  """More requests wait than may."""


class Found(NamedTuple):
  """A result, without its image, and the picture that it is drawn on, which may be smaller."""

  result: Result
  picture: Picture

  def above(self, min_score: float) -> Self:
    """The detections with at least this score."""
    return self._replace(result=self.result.above(min_score))

  def draw(self) -> Image.Image:
    """The picture with boxes, words, scores and masks."""
    return Image.fromarray(self.result.draw_on(self.picture))


def answer(run: str, result: Result) -> Answer:
  """The content of a result for other programs; words count from 1, the image is 1."""
  height, width = result.size
  rows = result.to_coco(image_id=1)
  areas = [row["bbox"][2] * row["bbox"][3] for row in rows]
  return Answer(
    run=run,
    images=[ImageSize(id=1, file_name=result.name, height=height, width=width)],
    categories=[Category(id=own, name=name) for own, name in enumerate(result.names, start=1)],
    annotations=[
      Box(id=own, area=area, **row) for own, (row, area) in enumerate(zip(rows, areas), start=1)
    ],
  )


class Looker:
  """Detectors by the names of their runs, which look one image at a time.

  The last results are kept, so that another threshold, or what was asked before, computes nothing.
  Several threads may ask.

  Attributes:
    detectors: by name, in order.
    max_pixels, max_bytes: of an image.
    computed: images that detectors have looked at.
  """

  def __init__(
    self,
    detectors: Mapping[str, OpenVocabularyDetector],
    max_pixels: int = decoding.MAX_PIXELS,
    max_megabytes: float = MAX_MEGABYTES,
  ):
    self.detectors = dict(detectors)
    self.max_pixels, self.max_bytes = max_pixels, int(max_megabytes * 1e6)
    self.computed = 0
    self._kept: collections.OrderedDict[bytes, Found] = collections.OrderedDict()
    self._turn, self._waiting = threading.Lock(), threading.BoundedSemaphore(MOST_WAITING)

  def closed_words(self) -> tuple[str, ...] | None:
    """The words to choose from, those that all runs without a CLIP know; None if all have one."""
    closed = [own for own in self.detectors.values() if not own.words.has_clip]
    known = [own.vocabulary().names or () for own in closed]
    if not known:
      return None
    return tuple(name for name in known[0] if all(name in names for names in known))

  def busy(self) -> bool:
    """Whether a detector is looking, or being compiled."""
    return self._turn.locked()

  def look(self, run: str, image: bytes, name: str, words: str | Sequence[str] | None) -> Found:
    """All that a run finds of the words, at whatever score.

    Args:
      run: a name in `detectors`.
      image: the file; `name` is what it is called.
      words: a list, or a text with commas between them; None is the run's own vocabulary.

    Raises:
      ValueError: there is no such run, the file is no image or is too large, or a word has no
        embedding; with what to do.
      TooManyError: as many wait already as may.
    """
    if run not in self.detectors:
      raise ValueError(f"There is no run {run!r} here, only {', '.join(self.detectors)}.")
    if len(image) > self.max_bytes:
      raise ValueError(self.too_large(name))
    if not self._waiting.acquire(blocking=False):
      raise TooManyError(f"{MOST_WAITING} requests are waiting already: try again in a moment.")
    try:
      with self._turn:
        return self._look(self.detectors[run], run, image, name, words)
    finally:
      self._waiting.release()

  def too_large(self, name: str) -> str:
    """The sentence about a file of too many bytes."""
    return f"{name} is larger than {self.max_bytes / 1e6:g} MB: make it smaller."

  def _look(
    self,
    detector: OpenVocabularyDetector,
    run: str,
    image: bytes,
    name: str,
    words: str | Sequence[str] | None,
  ) -> Found:
    stored = detector.words.stored
    if words is None and (stored is None or stored.names is None):
      words = ()
    vocabulary = detector.vocabulary(None if words is None else _listed(words))
    asked = repr((run, name, words is None, vocabulary.names)).encode("utf-8", "surrogatepass")
    key = hashlib.sha256(image).digest() + hashlib.sha256(asked).digest()
    if key in self._kept:
      self._kept.move_to_end(key)
      return self._kept[key]
    try:
      picture = decoding.open_image(image, name, self.max_pixels)
    except decoding.BadImageError as error:
      raise ValueError(_FLAGS.sub("", str(error))) from error
    result = detector(picture, vocabulary, min_score=0.0, max_pixels=self.max_pixels)
    self.computed += 1
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    found = Found(dataclasses.replace(result, image=None, name=name), fitted(picture))
    self._kept[key] = found
    if len(self._kept) > _KEPT:
      self._kept.popitem(last=False)
    return found


def _listed(words: str | Sequence[str]) -> list[str]:
  """The words; of a stranger's text '@file', which stands for a file elsewhere, is one of them."""
  listed = words.split(",") if isinstance(words, str) else list(words)
  names = [name for name in listed if name.strip()]
  if not names:
    raise ValueError("There is no word: say what to look for, as in: red car, dog")
  if len(names) > MOST_WORDS:
    raise ValueError(f"There are {len(names):,} words; at most {MOST_WORDS:,} are looked for.")
  return names
