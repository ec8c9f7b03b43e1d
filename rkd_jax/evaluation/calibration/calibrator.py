"""Collects what the detections of a split are worth: what thresholds.json holds of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rkd_jax.evaluation.calibration.points import Curve, curve, operating_points
from rkd_jax.evaluation.calibration.scaling import Scaling, compared, fit
from rkd_jax.evaluation.checks import check_image, check_new
from rkd_jax.evaluation.matching import HIT, IGNORED, match
from rkd_jax.records.sources import Record

_IOU = 0.5


class Calibrator:
  """Collects detections image by image, as evaluators do (see `checks`), then computes the points
  and the scaling.

  Args:
    class_names: of the vocabulary.
    evaluated: names of the classes that are annotated; detections of others do not count.
  """

  def __init__(self, class_names: Sequence[str], evaluated: Sequence[str]):
    self._class_names = tuple(class_names)
    self._evaluated = {i for i, name in enumerate(class_names) if name in set(evaluated)}
    self._objects = np.zeros(len(class_names), np.int64)
    # Of each image the scores, classes and hits of what counts.
    self._images: dict[int, tuple[np.ndarray, ...]] = {}

  def add(self, record: Record, found: Mapping[str, np.ndarray]) -> None:
    """Adds one image; ValueError as `checks.check_image`."""
    fields = ("boxes", "classes", "is_crowd")
    columns = len(self._class_names)
    image_id, truth, found = check_image(record, found, self._images, columns, fields)
    np.add.at(self._objects, truth["classes"][~truth["is_crowd"]], 1)
    status, _ = match(record, found, self._evaluated, _IOU)
    counted = status != IGNORED
    own = found["scores"], found["classes"], status == HIT
    self._images[image_id] = tuple(column[counted] for column in own)

  def merge(self, other: "Calibrator") -> None:
    """Adds the images of another one."""
    check_new(other._images, self._images)
    self._images |= other._images
    self._objects += other._objects

  def _columns(self) -> tuple[np.ndarray, ...]:
    """Scores, classes and hits of what counts, and the places of its images by rising id.

    Raises ValueError without an image.
    """
    if not self._images:
      raise ValueError("no image was added; nothing to calibrate")
    images = [self._images[image_id] for image_id in sorted(self._images)]
    places = np.repeat(np.arange(len(images)), [len(own[0]) for own in images])
    scores, classes, hits = map(np.concatenate, zip(*images))
    return scores, classes, hits, places

  def curves(self) -> tuple[Curve, dict[str, Curve]]:
    """That of all evaluated classes together, and that of each; ValueError without an image."""
    scores, classes, hits, _ = self._columns()
    each = {}
    for number in sorted(self._evaluated):
      own = classes == number
      name = self._class_names[number]
      each[name] = curve(scores[own], hits[own], int(self._objects[number]))
    objects = int(self._objects[sorted(self._evaluated)].sum())
    return curve(scores, hits, objects), each

  def scaling(self) -> Scaling:
    """The probabilities that fit all images best; ValueError without an image."""
    scores, classes, hits, _ = self._columns()
    return fit(scores, classes, hits, len(self._class_names))

  def held_out(
    self,
  ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Scores, probabilities and hits, each probability by what the other half of the images says.

    The halves are every other image by rising id.  ValueError without an image.
    """
    scores, classes, hits, places = self._columns()
    chances = np.zeros(len(scores))
    for half in (0, 1):
      own = places % 2 == half
      other = fit(scores[~own], classes[~own], hits[~own], len(self._class_names))
      chances[own] = other(scores[own], classes[own])
    return scores, chances, hits

  def measured(self, scaling: Scaling) -> dict[str, Any]:
    """'images', and `scaling.compared` of all detections, with a scaling from elsewhere."""
    scores, classes, hits, _ = self._columns()
    return {"images": len(self._images), **compared(scores, scaling(scores, classes), hits)}

  def compute(self) -> dict[str, Any]:
    """{'images', 'iou', 'vocabulary', 'all', 'classes': {name: ..}} of `operating_points`.

    'probability' has the 'slope', the common 'bias', that of each of the 'classes', and
    'two_fold', which is `scaling.compared` on the halves that each was not fitted to.
    """
    together, each = self.curves()
    own = self.scaling()
    names = self._class_names
    return {
      "images": len(self._images),
      "iou": _IOU,
      "vocabulary": list(names),
      "all": operating_points(together),
      "classes": {name: operating_points(own) for name, own in each.items()},
      "probability": {
        "slope": own.slope,
        "bias": own.bias,
        "classes": {names[number]: float(own.biases[number]) for number in sorted(self._evaluated)},
        "two_fold": {"images": len(self._images), **compared(*self.held_out())},
      },
    }
