"""What a trained detector finds in its own training images, as far as CLIP agrees.

A round of self-training.  As in MarvelOVD (arXiv 2407.21465) a pseudo label counts by the mean of
what CLIP and the detector make of it, since CLIP does not know what is background and the detector
does.  There that is weighed anew in each step, by the detector as it then is, for boxes that CLIP
proposed, the detector's scores being divided by the greatest of the image.  Here it is done once,
between two runs; the boxes are the detector's own, which are tighter than proposals; CLIP's opinion
is that on the nearest of the teachers' regions, which has to be most like the same class; and
scores are not divided, so that an image without the class gets no label.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Float

from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.batching import eval_batches
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.machine.workers import in_order
from rkd_jax.ops.host import iou
from rkd_jax.pseudo_labels.retrieval import similarities_of
from rkd_jax.pseudo_labels.writing import Labelled
from rkd_jax.records.joined import Joined
from rkd_jax.records.sources import Selection


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Which detections are kept.

  Attributes:
    score: the detector's has to be above it.
    overlap: least IoU with the nearest region, below which CLIP has no opinion.
    scale: CLIP's cosines with all classes are multiplied by it before the softmax.
    threshold: the mean of the detector's score and CLIP's probability has to be above it.
    per_image: most detections of a class in one image.

  Raises:
    ValueError: a number that cannot be.
  """

  score: float = 0.3
  overlap: float = 0.5
  scale: float = 50.0
  threshold: float = 0.0
  per_image: int = 1

  def __post_init__(self):
    for name in ("score", "overlap", "threshold"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name}={getattr(self, name)}: expected a number from 0 to 1.")
    if self.per_image < 1 or not self.scale > 0:
      raise ValueError(
        f"per_image={self.per_image}, scale={self.scale}: expected at least 1, and above 0."
      )


def agreeing(
  found: Labelled,
  regions: Float[np.ndarray, "k 4"],
  similarities: Float[np.ndarray, "k c"],
  wanted: Sequence[int],
  rule: Agreement,
) -> Labelled:
  """The detections of the wanted classes that CLIP agrees with, by the mean of both scores.

  Args:
    found: detections of one image.
    regions: the teachers' of the same image.
    similarities: cosines of their embeddings with those of all classes.
  """
  nothing = Labelled(*(column[:0] for column in found))
  found = _take(found, np.isin(found.labels, wanted) & (found.scores > rule.score))
  if not len(regions) or not len(found.boxes):
    return nothing
  overlaps = iou(found.boxes, regions)
  nearest = overlaps.argmax(1)
  logits = rule.scale * (similarities - similarities.max(1, keepdims=True))
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  scores = (found.scores + probabilities[nearest, found.labels]) / 2
  kept = (
    (overlaps.max(1) >= rule.overlap)
    & (similarities.argmax(1)[nearest] == found.labels)
    & (scores > rule.threshold)
  )
  found = _take(found._replace(scores=scores.astype(np.float32)), kept)
  found = _take(found, np.argsort(-found.scores, kind="stable"))
  earlier = np.tril(found.labels[:, None] == found.labels[None], -1).sum(1)
  return _take(found, earlier < rule.per_image)


def _take(found: Labelled, rows: np.ndarray) -> Labelled:
  return Labelled(*(column[rows] for column in found))


class Refiner:
  """Pseudo boxes of the records of a split, by a detector and the teachers' results.

  Args:
    detector: a trained one.
    class_embeddings: a row for each class of the data set.
    wanted: numbers of the classes that get pseudo boxes.
    rule: see `Agreement`.
    skip_bad_images: an image that cannot be read gets none; else it is an error.
  """

  def __init__(
    self,
    detector: Detector,
    class_embeddings: Float[np.ndarray, "c d"],
    wanted: Sequence[int],
    rule: Agreement,
    skip_bad_images: bool = False,
  ):
    self._detector, self._rows, self._wanted = detector, class_embeddings, list(wanted)
    self._rule, self._skip_bad_images = rule, skip_bad_images

  def labelled(self, source: Joined, indices: Iterable[int]) -> Iterator[Labelled]:
    """Those of some records, in their order; one batch at a time on each local device."""
    chosen = np.array(list(indices), np.int64)
    config, devices = self._detector.config, jax.local_device_count()
    spec, records = detector_specs(config)["eval"], Selection(source, chosen)  # pyright: ignore[reportArgumentType]
    batches = eval_batches(
      records,  # pyright: ignore[reportArgumentType]
      spec,
      threads=config.data.threads,
      skip_bad_images=self._skip_bad_images,
    )

    def detect(batch):
      return self._detector.detect(batch, self._rows)

    with ThreadPoolExecutor(devices) as threads:
      start = 0
      for found in in_order(threads, detect, zip(batches), devices + 1):
        for row, index in enumerate(chosen[start : start + spec.batch_size].tolist()):
          valid = found.valid[row]
          own = Labelled(
            found.boxes[row][valid], found.classes[row][valid], found.scores[row][valid]
          )
          result = source.result(index)
          likeness = similarities_of(result["regions/clip_embeddings"], self._rows)
          yield agreeing(own, result["regions/boxes"], likeness, self._wanted, self._rule)
        start += spec.batch_size
