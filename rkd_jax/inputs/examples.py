"""One record as one example of a batch: static shapes, augmentation, padding.

An example is a `structures.Batch` (or `CaptionedImages`) without its batch axis, all arrays padded
to the static shapes of the `BatchSpec`; `collate` stacks examples.  Images, by far the largest of
the arrays, can be written where the batch will have them (`out`), to be copied once only.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from rkd_jax import structures
from rkd_jax.inputs import transforms
from rkd_jax.ops.host import iou
from rkd_jax.ops.polygons import pack_polygons, simplify_polygons
from rkd_jax.records.sources import Record

# Canvases of scale groups are multiples of the largest stride that images are padded to.
_CANVAS_UNIT = 32

# Of an image's id in a batch; ImageNet's ids are longer.
_ID_BITS = 2**31 - 1
# A pseudo box with such an IoU with an annotated one is of the same object.
_SAME_OBJECT = 0.5
Example = structures.Batch | structures.CaptionedImages
Canvas = UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """Static shapes and augmentation of one kind of batch.

  Attributes:
    kind: 'box' (ground truth and regions), 'image' (pseudo boxes and regions), 'eval' (neither), or
      'caption' (image-text pairs).
    batch_size: images of the global batch, over all hosts.
    canvas: (height, width) that images are padded to, captioned ones resized to.  In training one
      that is no square is for lying images; a batch of standing ones has it turned (`for_batch`).
    short_sides: the shorter side is resized to one of these, drawn per image; 'eval' has just one.
    max_side: the longer side is never resized beyond this.
    scale_groups: the short sides, in their order, fall into so many groups; the images of a batch
      draw from one of them, on a canvas that is no higher than that group needs.
    flip: mirror half of the images.
    max_boxes: rows of ground truth; an image with more is an error.
    max_vertices: of an object's polygons, which finer ones are simplified to (`ops.polygons`); then
      objects without polygons are left out.  0 leaves masks out of the batch.
    max_regions, max_labels: the first so many teacher regions, or pseudo boxes, are used; 0 leaves
      them out of the batch.
    pseudo_labels: rows of the ground truth, behind the others, for the first pseudo boxes of a
      'box' record with a score above `pseudo_label_score`, on no annotated box and not of the
      classes `annotated`, all of whose boxes are known; 0 leaves them out.
    embedding_dim: width of the teacher's embeddings.
    crop: caption batches cut a random window that is up to this fraction smaller per axis.
    tokenizer: caption -> int32 tokens of fixed length, for caption batches.
  """

  kind: str
  batch_size: int
  canvas: tuple[int, int]
  short_sides: tuple[int, ...] = ()
  max_side: int = 0
  scale_groups: int = 1
  flip: bool = False
  max_boxes: int = 0
  max_vertices: int = 0
  max_regions: int = 0
  max_labels: int = 0
  pseudo_labels: int = 0
  pseudo_label_score: float = 0.0
  annotated: tuple[int, ...] = ()
  embedding_dim: int = 0
  crop: float = 0.0
  tokenizer: Callable[[str], Int[np.ndarray, "t"]] | None = None

  def __post_init__(self):
    if self.kind not in EXAMPLE_OF_KIND:
      raise ValueError(
        f"BatchSpec.kind is {self.kind!r}; expected one of {tuple(EXAMPLE_OF_KIND)}."
      )
    if self.batch_size < 1:
      raise ValueError(f"BatchSpec.batch_size is {self.batch_size}; expected at least 1.")
    if self.kind == "caption":
      if self.tokenizer is None:
        raise ValueError("BatchSpec of kind 'caption' needs a tokenizer.")
      if not 0 <= self.crop < 1:
        raise ValueError(f"BatchSpec.crop is {self.crop}; expected a fraction in [0, 1).")
    elif self.max_vertices and self.max_vertices < 3:
      raise ValueError(
        f"BatchSpec.max_vertices is {self.max_vertices}; expected 0 or at least 3, a triangle."
      )
    elif not self.short_sides or min(self.short_sides) < 1 or self.max_side < 1:
      raise ValueError(
        f"BatchSpec of kind {self.kind!r} needs short_sides and max_side of at least 1 pixel, "
        f"not {self.short_sides} and {self.max_side}."
      )
    if not 1 <= self.scale_groups <= max(len(self.short_sides), 1):
      raise ValueError(
        f"BatchSpec.scale_groups is {self.scale_groups}; expected 1 up to the number of "
        f"short_sides, {len(self.short_sides)}."
      )
    if self.kind == "eval" and (len(self.short_sides) > 1 or self.flip):
      raise ValueError("BatchSpec of kind 'eval' takes one short side and no flip.")

  @property
  def one_orientation(self) -> bool:
    """Whether a batch holds lying images only, or standing ones: a training canvas, no square."""
    return self.kind in ("box", "image") and self.canvas[0] != self.canvas[1]

  def for_batch(self, stands: bool, rng: np.random.Generator) -> "BatchSpec":
    """The spec of one training batch: its own canvas and group of short sides.

    A group is drawn, with the randomness of the step, as often as it has short sides, so that an
    image sees each equally often.  `stands` says that the batch holds standing images.  There are
    `scale_groups` canvases, twice as many with `one_orientation`.
    """
    if self.kind not in ("box", "image"):
      return self
    short_sides = self.short_sides
    if self.scale_groups > 1:
      groups = self._groups()
      sizes = np.array([len(group) for group in groups])
      short_sides = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
    canvas = self._canvas(short_sides, stands)
    return dataclasses.replace(self, canvas=canvas, short_sides=short_sides, scale_groups=1)

  @property
  def canvases(self) -> tuple[transforms.Size, ...]:
    """Those that batches come in, see `for_batch`."""
    if not self.one_orientation:
      return (self.canvas,)
    ways = itertools.product(self._groups(), (False, True))
    return tuple(dict.fromkeys(self._canvas(group, stands) for group, stands in ways))

  def _groups(self) -> list[tuple[int, ...]]:
    groups = np.array_split(np.array(self.short_sides), self.scale_groups)
    return [tuple(int(side) for side in group) for group in groups]

  def _canvas(self, short_sides: tuple[int, ...], stands: bool) -> transforms.Size:
    """That of a batch whose images draw from some short sides."""
    if not self.one_orientation:
      return self.canvas
    short = min(self.canvas)
    if self.scale_groups > 1:
      short = min(-(-max(short_sides) // _CANVAS_UNIT) * _CANVAS_UNIT, short)
    long = max(self.canvas)
    return (long, short) if stands else (short, long)

  def fixed_size(self, original: transforms.Size) -> transforms.Size | None:
    """Size at which every view of an image of this original size is seen, if there is just one."""
    if self.kind == "caption":
      return self.canvas if self.crop == 0 else None
    if len(self.short_sides) == 1:
      return transforms.resized_size(original, self.short_sides[0], self.max_side)
    return None

  def view(
    self, original: transforms.Size, rng: np.random.Generator | None = None
  ) -> transforms.View:
    """How an image of this size is shown; in training drawn first of all, by its row's `rng`.

    A short side is as likely as any other, and half of the images are mirrored if `flip`.
    """
    side = self.short_sides[0 if self.kind == "eval" else rng.integers(len(self.short_sides))]
    size = transforms.resized_size(original, side, self.max_side)
    return transforms.View(original, size, self.flip and rng.random() < 0.5)


def _name(record: Record) -> str:
  return f"{record.filename} (id {record.image_id})"


def _padded(record: Record, length: int, fields: dict[str, np.ndarray]) -> list[np.ndarray]:
  """The rows of fields, by their names in the data set, padded; and last, which are valid."""
  padded = []
  for name, rows in fields.items():
    if not np.isfinite(rows).all():
      raise ValueError(f"{name} of {_name(record)} has values that are not finite: build it again.")
    padded.append(np.zeros((length, *rows.shape[1:]), rows.dtype))
    padded[-1][: len(rows)] = rows
  return [*padded, np.arange(length) < len(rows)]


def _ground_truth(record: Record, view: transforms.View, spec: BatchSpec) -> structures.GroundTruth:
  boxes, max_boxes = view.boxes(record.boxes), spec.max_boxes
  keep = ~np.asarray(record.is_crowd, bool) & transforms.nonempty(boxes)
  masks = {}
  if spec.max_vertices:
    if record.polygons is None:
      raise ValueError(
        f"Image {_name(record)} comes from a data set without polygons, but max_vertices is "
        f"{spec.max_vertices}: set it to 0 (no mask head), or use a data set with polygons."
      )
    keep &= np.array([len(own) > 0 for own in record.polygons], bool)
    masks = _masks([record.polygons[i] for i in np.flatnonzero(keep)], view, spec)
  boxes, classes = boxes[keep], np.asarray(record.classes, np.int32)[keep]
  if len(boxes) > max_boxes:
    raise ValueError(
      f"Image {_name(record)} has {len(boxes)} ground-truth boxes, more than "
      f"max_boxes = {max_boxes}: raise max_boxes (boxes are never dropped silently)."
    )
  fields = {"objects/bbox": boxes, "objects/label": classes}
  truth = _padded(record, max_boxes, fields)
  if not spec.pseudo_labels:
    return structures.GroundTruth(*truth, **masks)
  chosen = pseudo_labels(record, spec)
  fields = {
    "pseudo_boxes/boxes": view.boxes(record.pseudo_boxes[chosen]),
    "pseudo_boxes/labels": np.asarray(record.pseudo_labels[chosen], np.int32),
  }
  more = _padded(record, spec.pseudo_labels, fields)
  rows = [np.concatenate(pair) for pair in zip(truth, more)]
  scores = np.ones(len(rows[0]), np.float32)
  scores[max_boxes : max_boxes + len(chosen)] = record.pseudo_scores[chosen]
  pseudo = np.arange(len(rows[0])) >= max_boxes
  return structures.GroundTruth(*rows, **masks, pseudo=pseudo, scores=scores)


def pseudo_labels(record: Record, spec: BatchSpec) -> Int[np.ndarray, "p"]:
  """Which of a record's pseudo boxes stand beside its ground truth, see `BatchSpec`."""
  taken = (iou(record.pseudo_boxes, record.boxes) < _SAME_OBJECT).all(1)
  taken &= record.pseudo_scores > spec.pseudo_label_score
  taken &= ~np.isin(record.pseudo_labels, spec.annotated) & transforms.nonempty(record.pseudo_boxes)
  return np.flatnonzero(taken)[: spec.pseudo_labels]


def count_boxes(record: Record, spec: BatchSpec) -> int:
  """The number of boxes that a record takes of `max_boxes`, before its image is resized."""
  keep = ~np.asarray(record.is_crowd, bool) & transforms.nonempty(record.boxes)
  if spec.max_vertices and record.polygons is not None:
    keep &= np.array([len(own) > 0 for own in record.polygons], bool)
  return int(keep.sum())


def _masks(
  objects: Sequence[Sequence[np.ndarray]], view: transforms.View, spec: BatchSpec
) -> dict[str, np.ndarray]:
  """Vertices and owners of all rows of the ground truth, of pseudo labels none."""
  rows = spec.max_boxes + spec.pseudo_labels
  vertices = np.zeros((rows, spec.max_vertices, 2), np.float32)
  owners = np.full((rows, spec.max_vertices), -1, np.int32)
  for row, polygons in enumerate(objects[: spec.max_boxes]):
    fitting = simplify_polygons(view.polygons(polygons), spec.max_vertices)
    vertices[row], owners[row] = pack_polygons([p.ravel() for p in fitting], spec.max_vertices)
  return {"vertices": vertices, "owners": owners}


def _regions(record: Record, view: transforms.View, spec: BatchSpec) -> structures.Regions:
  boxes = view.boxes(record.region_boxes[: spec.max_regions])
  embeddings = np.asarray(record.region_embeddings[: spec.max_regions], np.float32)
  if embeddings.shape != (len(boxes), spec.embedding_dim):
    raise ValueError(
      f"regions/clip_embeddings of {_name(record)} has shape {record.region_embeddings.shape}; "
      f"expected one row of embedding_dim = {spec.embedding_dim} for each of its "
      f"{len(record.region_boxes)} regions: set embedding_dim to the teacher's, or run "
      "`python -m rkd_jax.precompute ...` again."
    )
  fields = {"regions/boxes": boxes, "regions/clip_embeddings": embeddings}
  return structures.Regions(*_padded(record, spec.max_regions, fields))


def _pseudo_boxes(record: Record, view: transforms.View, count: int) -> structures.PseudoBoxes:
  boxes = view.boxes(record.pseudo_boxes[:count])
  classes = np.asarray(record.pseudo_labels[:count], np.int32)
  fields = {"pseudo_boxes/boxes": boxes, "pseudo_boxes/labels": classes}
  return structures.PseudoBoxes(*_padded(record, count, fields))


def picture_example(
  image: transforms.Pixels,
  spec: BatchSpec,
  name: str,
  view: transforms.View | None = None,
  image_id: int = 0,
  out: Canvas | None = None,
) -> structures.Batch:
  """An image alone, called `name`, by default resized as for evaluation.

  Raises:
    ValueError: resized, it does not fit the canvas.
  """
  view = spec.view(np.asarray(image).shape[:2]) if view is None else view
  return structures.Batch(
    images=transforms.pad_to_canvas(view.image(image), spec.canvas, name, out),
    sizes=np.array(view.size, np.int32),
    original_sizes=np.array(view.original, np.int32),
    image_ids=np.array(image_id & _ID_BITS, np.int32),
    valid=np.array(True),
  )


def detector_example(
  record: Record,
  image: transforms.Pixels,
  spec: BatchSpec,
  rng: np.random.Generator | None = None,
  out: Canvas | None = None,
) -> structures.Batch:
  """One image with what its kind of batch holds.

  For 'box' that is ground truth (without crowds), for 'image' pseudo boxes, for both the teacher's
  regions in stored order; 'eval' has the image alone.

  Args:
    record: its boxes are of the stored image.
    image: as stored or already at the size of the view.
    spec: static shapes and augmentation.
    rng: randomness of this row, which 'eval' does not use.
    out: zeros that the padded image is written to; None makes them.

  Raises:
    ValueError: too many boxes, an image larger than the canvas, embeddings of another width.
  """
  view = spec.view((record.height, record.width), rng)
  batch = picture_example(image, spec, _name(record), view, record.image_id, out)
  if spec.kind == "eval":
    return batch
  parts = {}
  if spec.kind == "box":
    parts["ground_truth"] = _ground_truth(record, view, spec)
  elif spec.max_labels:
    parts["pseudo_boxes"] = _pseudo_boxes(record, view, spec.max_labels)
  if spec.max_regions:
    parts["regions"] = _regions(record, view, spec)
  return dataclasses.replace(batch, **parts)


def caption_example(
  record: Record,
  image: transforms.Pixels,
  spec: BatchSpec,
  rng: np.random.Generator,
  out: Canvas | None = None,
) -> structures.CaptionedImages:
  """One image, resized to the canvas, and the tokens of one of its captions.

  Raises:
    ValueError: the record has no caption, or the tokenizer refuses it.
  """
  if not record.captions:
    raise ValueError(
      f"Record {_name(record)} has no caption: train on a split with captions, or remove it."
    )
  caption = record.captions[rng.integers(len(record.captions))]
  window = None
  if spec.crop:
    height, width = record.height, record.width
    scale_y, scale_x = 1 - spec.crop * rng.random(2)
    top, left = rng.random(2) * (height * (1 - scale_y), width * (1 - scale_x))
    window = (left, top, left + width * scale_x, top + height * scale_y)
  resized = transforms.resize(image, spec.canvas, window)
  if spec.flip and rng.random() < 0.5:
    resized = transforms.mirror(resized)
  images = transforms.pad_to_canvas(np.asarray(resized), spec.canvas, _name(record), out)
  try:
    tokens = np.asarray(spec.tokenizer(caption), np.int32)
  except ValueError as error:
    raise ValueError(f"Caption {caption!r} of {_name(record)}: {error}") from error
  return structures.CaptionedImages(images=images, tokens=tokens)


EXAMPLE_OF_KIND = {
  **dict.fromkeys(("box", "image", "eval"), detector_example),
  "caption": caption_example,
}


def collate(examples: Sequence[Example], images: np.ndarray | None = None) -> Example:
  """Stacks examples of one kind along a new leading axis.

  `images` are those of the examples where they were written to one array (`out`).
  """
  if images is None:
    return _stack(examples)
  stacked = _stack([dataclasses.replace(example, images=None) for example in examples])
  return dataclasses.replace(stacked, images=images)


def _stack(rows: Sequence[Any]) -> Any:
  """Arrays stacked, structures of them field by field; None where there is none."""
  first = rows[0]
  if first is None:
    return None
  if not dataclasses.is_dataclass(first):
    return np.stack(rows)
  names = [field.name for field in dataclasses.fields(first)]
  return type(first)(**{name: _stack([getattr(row, name) for row in rows]) for name in names})
