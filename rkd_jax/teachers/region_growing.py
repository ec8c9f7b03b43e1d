"""Class-agnostic box proposals.

The paper takes regions and pseudo boxes from a multi-modal ViT that was trained on boxes.
`RegionGrowing` stands in for it where no such model is wanted, as on the embedded dataset: it
looks at the image alone, has learned nothing and sees no annotation.  It grows connected regions
of one hue, bridging gaps of several widths so that stripes and dots of a second colour do not
break an object up, and regions that stand out from the background; their boxes are ranked by
contrast with the surroundings, compactness, size and stability (how many settings agree on a box).

NumPy and SciPy only, so that worker processes start without JAX.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage

from rkd_jax.ops.host import iou, suppress
from rkd_jax.teachers.proposals import Proposed, check_image

# 4-connectivity within each plane of a stack of masks, none across planes.
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


@dataclasses.dataclass(frozen=True)
class RegionGrowing:
  """Proposals from colour alone; the module docstring says how.

  Lengths are fractions of the square root of the image area, so that the settings do not depend
  on the resolution; colour distances are in 8-bit grey levels.

  Attributes:
    top: most proposals per image.
    nms_threshold: greatest IoU between two proposals.
    hue_bins: number of hue intervals.
    min_chroma: a pixel whose channels differ by less has no hue.
    bridged: gaps within a hue that are bridged, one set of regions for each radius.
    outstanding: distances from the background's colour, one set of regions for each.
    region_size: least and greatest square root of the area of a region.
    typical_size: range of box sizes that the ranking does not penalise.
    typical_fill: part of its box that a region fills, less is penalised.
    typical_aspect: shorter over longer side, less is penalised.
    full_contrast: more contrast with the surroundings than this counts no further.
    candidates: boxes that enter non-maximum suppression.
    most_pixels: a larger image is looked at reduced by a whole factor; each takes 600 bytes.
  """

  in_workers: ClassVar[bool] = True

  top: int = 20
  nms_threshold: float = 0.6
  hue_bins: int = 8
  min_chroma: float = 40.0
  bridged: tuple[float, ...] = (0.0, 0.016, 0.032)
  outstanding: tuple[float, ...] = (60.0,)
  region_size: tuple[float, float] = (0.06, 0.63)
  typical_size: tuple[float, float] = (0.14, 0.5)
  typical_fill: float = 0.45
  typical_aspect: float = 0.6
  full_contrast: float = 100.0
  candidates: int = 150
  most_pixels: int = 1_500_000

  def describe(self) -> dict[str, Any]:
    return {"name": type(self).__name__, **dataclasses.asdict(self)}

  def propose(self, image: UInt8[np.ndarray, "h w 3"]) -> Proposed:
    """At most `top` boxes, best first, that overlap by at most `nms_threshold`."""
    check_image(image)
    limits = np.array(image.shape[1::-1] * 2, np.float32)
    factor = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / self.most_pixels))
    if factor > 1:
      image = np.asarray(Image.fromarray(image).reduce(factor))
    side = np.sqrt(image.shape[0] * image.shape[1])
    # Channels first: NumPy reduces a short last axis slowly.
    colours = np.ascontiguousarray(np.moveaxis(_median(image), -1, 0), np.float32)
    masks, bridges = self._masks(colours, side)
    regions = _connected(masks, bridges, *(np.array(self.region_size) * side) ** 2)
    scores = self._scores(regions, _contrast(colours, regions), image.shape[:2], side)
    best = np.argsort(-scores, kind="stable")[: self.candidates]
    boxes, scores = regions.boxes[best], scores[best]
    overlaps = iou(boxes, boxes)
    scores = scores * np.sqrt(np.minimum((overlaps > 0.8).sum(1), 6) / 6)
    kept = suppress(overlaps, scores, self.nms_threshold)[: self.top]
    boxes = np.minimum(boxes[kept] * np.float32(factor), limits)
    return boxes, scores[kept].astype(np.float32)

  def _masks(
    self, colours: Float[np.ndarray, "3 h w"], side: float
  ) -> tuple[Bool[np.ndarray, "m h w"], Bool[np.ndarray, "m h w"]]:
    """Planes that hold regions, and the same planes with gaps bridged, which say what is one."""
    across, along = _opponents(colours)
    hue = np.arctan2(along, across) / np.float32(2 * np.pi) * self.hue_bins
    hue_known = np.ptp(colours, axis=0) > self.min_chroma
    least = (self.region_size[0] * side) ** 2
    hues = []
    # Two sets of intervals half an interval apart, so that no hue falls on a border in both.
    for shift in (0.0, 0.5):
      bins = np.where(hue_known, np.floor(hue + shift).astype(int) % self.hue_bins, self.hue_bins)
      sizes = np.bincount(bins.ravel(), minlength=self.hue_bins)[: self.hue_bins]
      hues += [bins == bin_ for bin_ in np.flatnonzero(sizes >= least)]
    hues = np.array(hues, bool).reshape(-1, *hue.shape)
    bridges = [_dilate(hues, round(radius * side)) for radius in self.bridged]
    distance = np.linalg.norm(colours - _background(colours, side), axis=0)
    outstanding = np.stack([distance > threshold for threshold in self.outstanding])
    masks = np.concatenate([hues] * len(bridges) + [outstanding])
    return masks, np.concatenate([*bridges, outstanding])

  def _scores(
    self, regions: "_Regions", contrast: Float[np.ndarray, "k"], shape: tuple, side: float
  ) -> Float[np.ndarray, "k"]:
    width, height = (regions.boxes[:, 2:] - regions.boxes[:, :2]).T
    size = np.sqrt(width * height) / side
    fill = regions.areas / (width * height)
    aspect = np.minimum(width, height) / np.maximum(width, height)
    far = np.array([shape[1], shape[0]]) - 1
    at_border = (regions.boxes[:, :2] <= 1).sum(1) + (regions.boxes[:, 2:] >= far).sum(1)
    smallest, largest = self.typical_size
    return (
      np.minimum(contrast / self.full_contrast, 1)
      * np.minimum(fill / self.typical_fill, 1)
      * np.minimum(aspect / self.typical_aspect, 1)
      * np.minimum(size / smallest, 1) ** 1.5
      * np.minimum(largest / size, 1) ** 2
      * 0.85**at_border
    )


class _Regions(NamedTuple):
  """k connected regions; pixel j (index into the flattened image) belongs to region owners[j]."""

  boxes: Float[np.ndarray, "k 4"]
  areas: Int[np.ndarray, "k"]
  owners: Int[np.ndarray, "p"]
  pixels: Int[np.ndarray, "p"]


def _connected(
  masks: Bool[np.ndarray, "m h w"], bridges: Bool[np.ndarray, "m h w"], least: float, most: float
) -> _Regions:
  """The parts of each mask that hang together in its bridged form, `least` to `most` pixels."""
  labels, count = ndimage.label(bridges, _IN_PLANE)  # pyright: ignore[reportGeneralTypeIssues]
  places = np.flatnonzero(masks)
  owners = labels.ravel()[places]
  areas = np.bincount(owners, minlength=count + 1)
  kept = (areas >= least) & (areas <= most)
  owners = np.where(kept, np.cumsum(kept), 0)[owners]  # pyright: ignore[reportCallIssue]
  labels = np.zeros_like(labels)
  labels.ravel()[places] = owners
  boxes = [
    (columns.start, rows.start, columns.stop, rows.stop)
    for _, rows, columns in ndimage.find_objects(labels)
  ]
  inside = owners > 0
  return _Regions(
    boxes=np.array(boxes, np.float32).reshape(-1, 4),
    areas=areas[kept],
    owners=owners[inside] - 1,
    pixels=places[inside] % masks[0].size,
  )


def _contrast(colours: Float[np.ndarray, "3 h w"], regions: _Regions) -> Float[np.ndarray, "k"]:
  """Distance between the mean of each region and the mean of the rest of its widened box.

  It is that of colour and, as much again, of hue times saturation, in which shading makes no
  difference.
  """
  brightest = np.maximum(colours.max(0), 40)
  features = np.concatenate([0.5 * colours, 160 * _opponents(colours) / brightest])
  channels, height, width = features.shape
  count = len(regions.boxes)
  inner = np.stack(
    [np.bincount(regions.owners, channel.ravel()[regions.pixels], count) for channel in features]
  )
  integral = np.zeros((channels, height + 1, width + 1))
  integral[:, 1:, 1:] = features.cumsum(1, dtype=np.float64).cumsum(2)
  widen = 0.25 * (regions.boxes[:, 2:] - regions.boxes[:, :2])
  widened = regions.boxes + np.concatenate([-widen, widen], 1)
  x0, y0, x1, y1 = np.clip(np.rint(widened), 0, [width, height, width, height]).astype(int).T
  whole = integral[:, y1, x1] - integral[:, y0, x1] - integral[:, y1, x0] + integral[:, y0, x0]
  outer_areas = np.maximum((x1 - x0) * (y1 - y0) - regions.areas, 1)
  return np.linalg.norm(inner / regions.areas - (whole - inner) / outer_areas, axis=0)


def _median(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
  """Removes noise and hairlines: median of three along columns and rows, twice."""
  for axis in (0, 1, 0, 1):
    padding = [(1, 1) if i == axis else (0, 0) for i in range(3)]
    padded = np.moveaxis(np.pad(image, padding, mode="edge"), axis, 0)
    a, b, c = padded[:-2], padded[1:-1], padded[2:]
    median = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    image = np.moveaxis(median, 0, axis)
  return image


def _opponents(colours: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "2 h w"]:
  """Two axes across the grey line, whose angle is the hue."""
  red, green, blue = colours
  return np.stack([red - (green + blue) / 2, (green - blue) * np.float32(np.sqrt(3) / 2)])


def _background(colours: Float[np.ndarray, "3 h w"], side: float) -> Float[np.ndarray, "3 h w"]:
  """What surrounds the objects: the median over cells, then over more than half the image."""
  height, width = colours.shape[1:]
  cell = max(int(side / 16), 1)
  rows, columns = max(height // cell, 1), max(width // cell, 1)
  cells = colours[:, : rows * cell, : columns * cell].reshape(3, rows, -1, columns, cell)
  coarse = ndimage.median_filter(np.median(cells, (2, 4)), (1, 9, 9))
  at_row = np.minimum(np.arange(height) // cell, rows - 1)
  at_column = np.minimum(np.arange(width) // cell, columns - 1)
  return coarse[:, at_row[:, None], at_column]


def _dilate(masks: Bool[np.ndarray, "m h w"], radius: int) -> Bool[np.ndarray, "m h w"]:
  """Dilation by a square of 2·radius + 1 pixels, by shifts that double."""
  for axis in (1, 2):
    reached = 0
    while reached < radius:
      shift = min(max(reached, 1), radius - reached)
      before, after = [slice(None)] * 3, [slice(None)] * 3
      before[axis], after[axis] = slice(None, -shift), slice(shift, None)
      wider = masks.copy()
      wider[tuple(after)] |= masks[tuple(before)]
      wider[tuple(before)] |= masks[tuple(after)]
      masks, reached = wider, reached + shift
  return masks
