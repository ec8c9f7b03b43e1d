"""COCO content made from annotations of another format.

What is wrong with it is said in the words of the files that it was made from: problems name the
line or the element, not an entry of the content.
"""

import collections
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rkd_jax.files.json_lists import Document, Problems
from rkd_jax.records import decoding

# Coordinates beyond are no pixels of any image.
_MOST = 2**31


class Made(Document):
  """COCO content that no file has; `checksum` is that of it."""

  def __init__(self, path: str | os.PathLike, content: dict[str, Any]):
    data = msgspec.json.encode(content)
    super().__init__(path, data)
    self.checksum = hashlib.sha256(data).hexdigest()[:16]


class Maker:
  """Collects the images of a split and their objects; images are opened for their sizes alone.

  Args:
    path: of the file or folder of the annotations, for messages.
    root: names of images are relative to it where they are below it.
    skip_bad_images: leaves out and counts images whose size cannot be read; else it is a problem.
    max_pixels: larger images are bad ones.

  Attributes:
    problems, notes: as those of a `Document`, which gets them.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    root: Path,
    skip_bad_images: bool = False,
    max_pixels: int = decoding.MAX_PIXELS,
  ):
    self.path, self.root = Path(path), root
    self.problems, self.notes = Problems(path), collections.Counter()
    self._skip, self._max_pixels = skip_bad_images, max_pixels
    self._images, self._objects, self._places = [], [], {}

  def add_image(
    self, path: Path, where: str, size: tuple[int, int] | None = None
  ) -> tuple[int, int] | None:
    """Starts the next image; its (width, height), upright, or None where it is left out.

    `size` is what the annotations say, `where` the place that asks for the image.
    """
    if size is None:
      try:
        size = decoding.upright_size(path, self._max_pixels)
      except decoding.BadImageError as error:
        if self._skip and path.is_file():
          self.notes["images that cannot be read left out"] += 1
        else:
          self.problems.add("image", f"{where}: {error}")
        return None
    name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
    self._images.append(
      {
        "id": len(self._images) + 1,
        "file_name": name.as_posix(),
        "width": size[0],
        "height": size[1],
      }
    )
    return size

  def add_object(
    self,
    where: str,
    number: int,
    box: Sequence[float],
    polygon: Sequence[float] = (),
    crowd: bool = False,
  ) -> None:
    """Adds an object to the image that was started last.

    Args:
      where: the place that problems name.
      number: of the class.
      box: XYXY, pixels.
      polygon: x, y, x, y, ... in pixels.
      crowd: neither trained on nor counted in evaluations.
    """
    if not all(math.isfinite(value) and abs(value) < _MOST for value in (*box, *polygon)):
      self.problems.add(
        "number", f"{where}: a coordinate is no finite number of pixels: correct or remove it."
      )
      return
    x1, y1, x2, y2 = box
    entry = {
      "id": len(self._objects) + 1,
      "image_id": len(self._images),
      "category_id": number,
      "bbox": [x1, y1, x2 - x1, y2 - y1],
      "iscrowd": int(crowd),
    }
    if polygon:
      entry["segmentation"] = [list(polygon)]
    self._places[len(self._objects)] = where
    self._objects.append(entry)

  def make(self, names: Sequence[str]) -> Made:
    """The content, with the classes of these names in their order; it has all problems so far."""
    content = {
      "images": self._images,
      "annotations": self._objects,
      "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    document = Made(self.path, content)
    document.problems, document.places = self.problems, self._places
    document.notes.update(self.notes)
    return document
