"""What a detector found on an image, as the Python interface gives it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from pycocotools import mask as coco_mask

from rkd_jax.pictures.draw import Picture, draw_detections, fitted


@dataclasses.dataclass(frozen=True)
class Result:
  """Detections on one image, best first.

  Attributes:
    boxes: [x1, y1, x2, y2] in pixels of the upright image, float32.
    scores: of each box, between 0 and 1.
    classes: places in `names`.
    names: the words that were looked for.
    segmentations: COCO's compressed run lengths of each box; None without a mask head.
    size: (height, width) of the image.
    image: the upright image in RGB; None if it was not kept.
    name: the file, or what errors call the image.
    base: words that the detector was trained on with boxes; None where that is not known.
    probabilities: the chance of each box to be right; None but of `with_probabilities`.
  """

  boxes: Float[np.ndarray, "n 4"]
  scores: Float[np.ndarray, "n"]
  classes: Int[np.ndarray, "n"]
  names: tuple[str, ...]
  segmentations: Sequence[Mapping[str, Any]] | None
  size: tuple[int, int]
  image: Image.Image | None = dataclasses.field(default=None, repr=False)
  name: str = ""
  base: frozenset[str] | None = dataclasses.field(default=None, repr=False)
  probabilities: Float[np.ndarray, "n"] | None = None

  def __len__(self) -> int:
    return len(self.scores)

  @property
  def labels(self) -> list[str]:
    """The word of each box."""
    return [self.names[number] for number in self.classes]

  @property
  def masks(self) -> Bool[np.ndarray, "n h w"] | None:
    """The masks at the size of the image; None without a mask head."""
    if self.segmentations is None:
      return None
    masks = [coco_mask.decode(own) for own in self.segmentations]
    return np.array(masks, bool).reshape(len(self), *self.size)

  def above(self, min_score: float | Mapping[str, float]) -> Self:
    """The detections with at least this score, or that of their word."""
    if isinstance(min_score, Mapping):
      limits = np.array([min_score[name] for name in self.names], np.float32)[self.classes]
    else:
      limits = min_score
    keep = self.scores >= limits
    runs = self.segmentations
    return dataclasses.replace(
      self,
      boxes=self.boxes[keep],
      scores=self.scores[keep],
      classes=self.classes[keep],
      segmentations=runs and [own for own, kept in zip(runs, keep) if kept],
      probabilities=None if self.probabilities is None else self.probabilities[keep],
    )

  def with_probabilities(self, chance: Callable[..., Float[np.ndarray, "n"]]) -> Self:
    """The same with `probabilities`; `chance` is the `probability` of a run's thresholds, see
    `evaluation.calibration.thresholds.load_thresholds`.
    """
    return dataclasses.replace(self, probabilities=chance(self.names, self.scores, self.classes))

  def draw(self) -> Image.Image:
    """The image with boxes, words, scores and masks; very large ones reduced, see `draw.fitted`.

    Raises:
      ValueError: the image was not kept.
    """
    if self.image is None:
      raise ValueError(f"The image {self.name} was not kept: call the detector without keep=False.")
    return Image.fromarray(self.draw_on(fitted(self.image)))

  def draw_on(self, picture: Picture) -> Picture:
    """The same on a picture of the image, at whatever scale."""
    scale = np.array(picture.shape[1::-1] * 2) / np.array(self.size[::-1] * 2)
    novel = [self.base is not None and label not in self.base for label in self.labels]
    runs = self.segmentations
    if runs and picture.shape[:2] != self.size:
      runs = [_resized(own, *picture.shape[:2]) for own in runs]
    boxes = self.boxes * scale
    return draw_detections(picture, boxes, self.scores, self.labels, novel, segmentations=runs)

  def to_coco(
    self, image_id: int = 0, category_ids: Mapping[str, int] | None = None
  ) -> list[dict[str, Any]]:
    """A COCO result of each box, as `COCO.loadRes` takes a list of.

    Boxes are [x, y, width, height]; float32 numbers are written so that they are read back as they
    were.  `category_ids` has that of each word; by default the first has 1.  Probabilities, if
    there are some, are 'probability'.
    """
    ids = category_ids or {name: number for number, name in enumerate(self.names, start=1)}
    rows = []
    for row, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels)):
      x1, y1, x2, y2 = map(_plain, box)
      entry = {"image_id": image_id, "category_id": ids[label], "category": label}
      entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": _plain(score)}
      if self.probabilities is not None:
        entry["probability"] = float(self.probabilities[row])
      if self.segmentations is not None:
        entry["segmentation"] = dict(self.segmentations[row])
      rows.append(entry)
    return rows

  def to_supervision(self) -> Any:
    """The same as `supervision.Detections`.

    Raises:
      ImportError: supervision is not installed.
    """
    try:
      import supervision
    except ImportError as error:
      raise ImportError("Install it first: pip install supervision") from error
    return supervision.Detections(
      xyxy=self.boxes,
      mask=self.masks,
      confidence=self.scores,
      class_id=self.classes.astype(int),
      data={"class_name": np.array(self.labels)},
    )


def _plain(value: np.float32) -> float:
  """The shortest decimal number that is this float32."""
  return float(str(np.float32(value)))


def _resized(runs: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
  """A mask at another size."""
  mask = Image.fromarray(coco_mask.decode(runs)).resize((width, height), Image.Resampling.NEAREST)
  encoded = coco_mask.encode(np.asfortranarray(np.asarray(mask)))
  return {"size": [height, width], "counts": str(encoded["counts"], "ascii")}
