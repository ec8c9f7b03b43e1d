"""The box that each label of an image would supervise, on a few images of a run's image batches."""

import dataclasses

import ml_collections
import numpy as np
import tqdm
from jaxtyping import Bool, Float, Int

from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.examples import collate, detector_example
from rkd_jax.inputs.plan import AnySource, detector_specs, open_sources
from rkd_jax.models.detector.label_boxes import CHOICES
from rkd_jax.records.sources import open_image
from rkd_jax.structures import Batch
from rkd_jax.vocabulary.vocabulary import load_vocabulary

_IMAGES = 6


@dataclasses.dataclass(frozen=True)
class LabelBoxes:
  """Boxes (XYXY pixels of the image) of the labels of some records, by each of `CHOICES`.

  What is not `valid` is padding, or there is no such box.
  """

  indices: Int[np.ndarray, "i"]
  classes: Int[np.ndarray, "i l"]
  boxes: Float[np.ndarray, "i c l 4"]
  valid: Bool[np.ndarray, "i c l"]


def open_labels(config: ml_collections.ConfigDict) -> AnySource:
  """The records of a run's image batches, with what its teachers found.

  Raises:
    ValueError: the run has no image batches, or records, results or class embeddings are not where
      its config says.
  """
  if "image" not in config.data.schedule:
    raise ValueError("its data.schedule has no image batches.")
  own = _of_images(config)
  source = open_sources(own)["image"]
  load_vocabulary(own, source)
  if not source.index.num_pseudo_boxes.any():
    raise ValueError(f"no image of {source.name} has a pseudo box.")
  return source


def label_boxes(
  detector: Detector, source: AnySource, config: ml_collections.ConfigDict
) -> LabelBoxes:
  """What a detector and its teachers say of some images, of those with several labels if any."""
  own = _of_images(config)
  spec = detector_specs(own)["image"]
  # One shape for lying and standing images, which the canvas changes nothing about.
  spec = dataclasses.replace(
    spec, canvas=(max(spec.canvas),) * 2, short_sides=spec.short_sides[:1], flip=False
  )
  rows = load_vocabulary(own, source).embeddings
  counts = source.index.num_pseudo_boxes
  able = np.flatnonzero(counts >= min(2, counts.max()))
  indices = able[np.unique(np.linspace(0, len(able) - 1, _IMAGES).astype(int))]
  classes, boxes, valid = [], [], []
  for index in tqdm.tqdm(indices.tolist(), desc="labels", unit="img", mininterval=2):
    record = source[index]
    image, rng = np.asarray(open_image(record)), np.random.default_rng(0)
    batch = collate([detector_example(record, image, spec, rng)])
    assert isinstance(batch, Batch)
    found = detector.label_boxes(batch, rows)
    classes.append(batch.pseudo_boxes.classes[0])
    none = np.zeros_like(batch.pseudo_boxes.valid[0])
    boxes.append([found[c].boxes[0] if c in found else np.zeros((*none.shape, 4)) for c in CHOICES])
    valid.append([found[c].valid[0] if c in found else none for c in CHOICES])
  return LabelBoxes(indices, np.stack(classes), np.array(boxes, np.float32), np.array(valid))


def _of_images(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config of a run with nothing but image batches, which have regions if any of its have."""
  own = ml_collections.ConfigDict(config.to_dict())
  data = own.data
  data.schedule = ("image",)
  data.image.max_regions = data.image.max_regions or data.box.max_regions
  own.class_embeddings = data.image.get("class_embeddings") or own.class_embeddings
  own.image_counts = ""
  return own
