"""The regions of all images that are most like the name of a class.

After LP-OVOD (arXiv 2310.17109): for each name without annotations, the regions of the training
images whose CLIP embeddings have the greatest cosines with that of the name, as many for each
class.  As in its published code regions may need an objectness.  What differs: the regions are the
few that the teachers keep of an image, how many an image may give to a class is limited (there it
is not), and a region can be left to the class that it is most like (`Rule.softmax`).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.special import expit, logsumexp
from tqdm import tqdm

from rkd_jax.ops.host import unit
from rkd_jax.pseudo_labels.candidates import Best, Candidates
from rkd_jax.records.joined import Joined

# Images whose regions are compared together.
_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Rule:
  """Which regions are taken.

  Attributes:
    top: most regions of a class.
    per_image: most regions of a class in one image.
    softmax: 0 ranks by cosine.  Else a region goes to the class that it is most like, and what
      counts is the probability of that class in the softmax of this many times its cosines with
      all classes, as where CLIP chooses pseudo boxes.
    threshold: a region needs a cosine, or probability, above it; None is no bound.
    objectness: a region needs at least this score of the proposer.

  Raises:
    ValueError: a number that cannot be.
  """

  top: int = 100
  per_image: int = 1
  softmax: float = 0.0
  threshold: float | None = None
  objectness: float = 0.0

  def __post_init__(self):
    for name in ("top", "per_image"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}: expected at least 1.")
    if not 0 <= self.softmax < np.inf:
      raise ValueError(f"softmax={self.softmax}: expected a scale such as 50, or 0 for cosines.")

  def scores(self, keys: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """The cosines or probabilities that belong to keys."""
    return expit(keys) if self.softmax else keys

  def keys(self, similarities: Float[np.ndarray, "k c"]) -> Float32[np.ndarray, "k c"]:
    """What regions are ranked by, from their cosines with all classes; -inf are those left out.

    Probabilities are ranked by their log-odds, since many of them are 1 as floats.
    """
    if not self.softmax or not len(similarities):
      keys = similarities.astype(np.float32)
    else:
      rows, best = np.arange(len(similarities)), similarities.argmax(1)
      logits = self.softmax * similarities
      others = logits.copy()
      others[rows, best] = -np.inf
      keys = np.full(similarities.shape, -np.inf, np.float32)
      keys[rows, best] = logits[rows, best] - logsumexp(others, axis=1)
    if self.threshold is not None:
      keys = np.where(self.scores(keys) > self.threshold, keys, np.float32(-np.inf))
    return keys


@dataclasses.dataclass(frozen=True)
class Retrieved:
  """What a look at all regions gave.

  Attributes:
    best: the regions of each class.
    sample: embeddings of some regions of all images, unit vectors, drawn evenly.
    sample_classes: the class that each of these is most like.
    mean: of the unit embeddings of all regions.
    regions: number of all regions.
  """

  best: Best
  sample: Float32[np.ndarray, "s d"]
  sample_classes: Int[np.ndarray, "s"]
  mean: Float32[np.ndarray, "d"]
  regions: int


def similarities_of(
  embeddings: Float[np.ndarray, "k d"], class_embeddings: Float[np.ndarray, "c d"]
) -> Float[np.ndarray, "k c"]:
  """Cosines, in double precision, so that equal embeddings have equal cosines."""
  rows, columns = (unit(np.asarray(e, np.float64)) for e in (embeddings, class_embeddings))
  return rows @ columns.T


def retrieve(
  sources: Sequence[Joined],
  class_embeddings: Float[np.ndarray, "c d"],
  wanted: Sequence[int],
  rule: Rule,
  sample: int = 0,
) -> Retrieved:
  """One pass over the results of all splits, in memory that does not grow with their number.

  Args:
    sources: a split each, with the teachers' results, which alone are read.
    class_embeddings: of all classes, which compete with each other where the rule has a softmax.
    wanted: numbers of the classes that regions are looked for.
    sample: how many regions are drawn.

  Raises:
    ValueError: a softmax over one class, or a result is damaged.
  """
  if rule.softmax and len(class_embeddings) < 2:
    raise ValueError("softmax compares classes, but the vocabulary has only one: use softmax=0.")
  best, drawn = Best(rule.top, rule.per_image), _Sample(sample, class_embeddings.shape[1])
  columns = np.array(wanted, np.int64)
  total, count = np.zeros(class_embeddings.shape[1]), 0
  for split, source in enumerate(sources):
    for block in _blocks(source, split):
      similarities = similarities_of(block.embeddings, class_embeddings)
      embeddings = unit(block.embeddings.astype(np.float32))
      total += embeddings.sum(0, dtype=np.float64)
      count += len(embeddings)
      drawn.add(embeddings, similarities.argmax(1) if len(similarities) else np.zeros(0, np.int64))
      keys = rule.keys(similarities)[:, columns]
      keys[block.objectness < rule.objectness] = -np.inf
      promising = np.isfinite(keys) & (keys >= best.least(len(class_embeddings))[columns])
      rows, own = np.nonzero(promising)
      found = Candidates(
        keys=keys[rows, own],
        image_ids=block.image_ids[rows],
        splits=np.full(len(rows), split),
        regions=block.regions[rows],
        labels=columns[own],
        similarities=similarities[rows, columns[own]].astype(np.float32),
        boxes=block.boxes[rows],
        embeddings=embeddings[rows],
      )
      if len(found):
        best.add(found)
  mean = (total / max(count, 1)).astype(np.float32)
  return Retrieved(best, drawn.rows[: drawn.held], drawn.classes[: drawn.held], mean, count)


@dataclasses.dataclass(frozen=True)
class _Block:
  """All regions of some images."""

  image_ids: Int[np.ndarray, "r"]
  regions: Int[np.ndarray, "r"]
  boxes: Float32[np.ndarray, "r 4"]
  objectness: Float32[np.ndarray, "r"]
  embeddings: Float32[np.ndarray, "r d"]


def _blocks(source: Joined, split: int) -> Iterator[_Block]:
  image_ids = source.index.image_ids
  with tqdm(total=len(source), unit=" images", desc=source.split, mininterval=2) as bar:
    for start in range(0, len(source), _BLOCK):
      indices = range(start, min(start + _BLOCK, len(source)))
      results = [source.result(i) for i in indices]
      counts = [len(result["regions/boxes"]) for result in results]
      yield _Block(
        image_ids=np.repeat(image_ids[start : start + len(indices)], counts),
        regions=np.concatenate([np.arange(count) for count in counts]),
        boxes=np.concatenate([result["regions/boxes"] for result in results]),
        objectness=np.concatenate([result["regions/scores"] for result in results]),
        embeddings=np.concatenate([result["regions/clip_embeddings"] for result in results]),
      )
      bar.update(len(indices))


class _Sample:
  """Rows drawn evenly out of any number, the same ones for the same rows (reservoir sampling)."""

  def __init__(self, size: int, width: int):
    self.rows, self.classes = np.zeros((size, width), np.float32), np.zeros(size, np.int64)
    self.held, self._seen = 0, 0
    self._rng = np.random.Generator(np.random.PCG64(0))

  def add(self, rows: Float32[np.ndarray, "r d"], classes: Int[np.ndarray, "r"]) -> None:
    if not len(self.rows):
      return
    for row, number in zip(rows, classes):
      self._seen += 1
      place = self.held
      if self.held == len(self.rows):
        place = int(self._rng.integers(self._seen))
      else:
        self.held += 1
      if place < len(self.rows):
        self.rows[place], self.classes[place] = row, number
