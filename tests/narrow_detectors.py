"""Detectors of the published kinds, much narrower and with random weights, ready for use."""

from typing import Any

import jax
import numpy as np
from narrow import narrow

from rkd_jax.configs.coco import rkd_ils_weight_transfer as coco
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis
from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.words import Words
from rkd_jax.frozen.detector import Detector
from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

NAMES = ("cat", "dog", "red fox")
# With a head on the last map alone; with a pyramid and masks.
KINDS = {"c4": coco, "fpn": lvis}


def make(kind: str, canvas: tuple[int, int] = (64, 96)) -> OpenVocabularyDetector:
  """A detector of images whose shorter side is 64 pixels; it finds boxes of all its words."""
  config = narrow(KINDS[kind].get_config())
  config.data.eval.update(canvas=canvas, short_sides=(min(canvas),), max_side=max(canvas))
  config.model.classifier.temperature = 4.0  # no two scores are alike
  config.model.test.update(score_threshold=0.0, detections=24)
  rng = np.random.default_rng(0)

  def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    name, values = jax.tree_util.keystr(path), rng.normal(size=leaf.shape)
    if name.endswith(("scale']", "var']")):
      values = np.ones(leaf.shape)
    elif leaf.ndim > 1:
      values *= (2 / np.prod(leaf.shape[:-1])) ** 0.5
    else:
      values *= 0.1
    # Boxes near the anchors.
    return values.astype(leaf.dtype) * (0.01 if "deltas" in name or "box_predictor" in name else 1)

  params = jax.tree_util.tree_map_with_path(drawn, abstract_params(config))
  rows = rng.normal(size=(len(NAMES), config.model.classifier.embedding_dim))
  words = Words(rows.shape[1], ClassEmbeddings(rows.astype(np.float32), NAMES, ("a {}",)))
  return OpenVocabularyDetector(Detector(config, params), words)
