"""Parameters, vocabularies and batches of a config's full size, made of random numbers.

They make the detector do the work of real ones: activations keep their scale, anchors move a
little, scores spread, and every image holds objects.
"""

import dataclasses
import math
import re

import jax
import ml_collections
import numpy as np

from rkd_jax.models.detector import rcnn
from rkd_jax.ops.host import unit
from rkd_jax.runs.state import parameter_paths
from rkd_jax.structures import Batch, GroundTruth, PseudoBoxes, Regions, Vocabulary

OBJECTS = 15
_POLYGON_CORNERS = 24
# LVIS and COCO; the federated loss is for vocabularies like LVIS'.
_LARGE_VOCABULARY, _VOCABULARY = 1203, 80

# Layers that the originals start near zero.
_SMALL = r".*(objectness|deltas|box_predictor/fc2)/kernel"


def params(config: ml_collections.ConfigDict, rng: np.random.Generator):
  """Seeded parameters of a config's network, in NumPy: `jit(model.init)` takes far longer."""
  # The stem reads uniform noise in 0 to 255, divided by the config's standard deviation.
  pixel_std = 74.0 / float(np.mean(config.model.pixel_std))
  return fill(rcnn.abstract_params(config), rng, pixel_std)


def fill(abstract, rng: np.random.Generator, pixel_std: float = 1.0):
  """Values for a tree of abstract parameters that keep activations in scale."""

  def value(path: str, leaf) -> np.ndarray:
    name = path.rsplit("/", 1)[-1]
    if name == "kernel":
      std = 0.01 if re.fullmatch(_SMALL, path) else math.sqrt(2.0 / math.prod(leaf.shape[:-1]))
      if path == "backbone/stem/kernel":
        std /= pixel_std
      return np.float32(std) * rng.standard_normal(leaf.shape, np.float32)
    if name in ("scale", "var"):
      # Residual branches are added up: a fifth each keeps their sum in scale.
      residual = name == "scale" and "conv3_norm" in path
      return np.full(leaf.shape, 0.2 if residual else 1.0, np.float32)
    return np.zeros(leaf.shape, np.float32)

  return jax.tree.map(value, parameter_paths(abstract), abstract)


def vocabulary(
  config: ml_collections.ConfigDict, num_classes: int, rng: np.random.Generator
) -> Vocabulary:
  """Random unit rows; 0 classes: as many as LVIS or COCO have, by the config's loss."""
  num_classes = num_classes or (_LARGE_VOCABULARY if config.loss.federated_classes else _VOCABULARY)
  rows = rng.standard_normal((num_classes, config.model.classifier.embedding_dim), np.float32)
  # Of the last class there are pseudo labels alone, where box batches have any.
  labelled = config.data.box.get("pseudo_labels", 0) > 0
  named = labelled & (np.arange(num_classes) == num_classes - 1)
  return Vocabulary(
    embeddings=unit(rows),
    has_boxes=~named,
    image_counts=rng.integers(1, 2000, num_classes).astype(np.float32),
    has_pseudo_labels=named if labelled else None,
  )


def random_boxes(
  rng: np.random.Generator, shape: tuple[int, ...], canvas: tuple[int, int]
) -> np.ndarray:
  """Boxes [*shape, 4] in the canvas, sides log-uniform from 16 pixels to three quarters of it."""
  limits = np.array(canvas[::-1], np.float32)
  sides = np.exp(rng.uniform(np.log(16.0), np.log(0.75 * limits), (*shape, 2)))
  corner = rng.uniform(0.0, 1.0, (*shape, 2)) * (limits - sides)
  return np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)


def ellipses(boxes: np.ndarray) -> np.ndarray:
  """A polygon [..., 24, 2] of XY corners that fills each box."""
  angles = np.linspace(0, 2 * np.pi, _POLYGON_CORNERS, endpoint=False)
  circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
  low, high = boxes[..., None, :2], boxes[..., None, 2:]
  return (low + high) / 2 + circle * (high - low) / 2


def batch(
  config: ml_collections.ConfigDict,
  kind: str,
  size: int,
  canvas: tuple[int, int],
  num_classes: int,
  rng: np.random.Generator,
) -> Batch:
  """`size` images that fill the canvas, with what a batch of this kind holds.

  `kind` is 'box' (ground truth, polygons for models with masks, pseudo labels), 'image' (pseudo
  boxes), both with as many teacher regions as the config says, or 'inference' (neither).
  """

  def boxes(rows: int) -> np.ndarray:
    return random_boxes(rng, (size, rows), canvas)

  def classes(rows: int) -> np.ndarray:
    return rng.integers(0, num_classes, (size, rows)).astype(np.int32)

  fields = {}
  if kind == "box":
    annotated, labelled = config.data.box.max_boxes, config.data.box.get("pseudo_labels", 0)
    rows = annotated + labelled
    pseudo = np.tile(np.arange(rows) >= annotated, (size, 1))
    valid = pseudo | (np.arange(rows) < OBJECTS)
    truth = GroundTruth(boxes(rows), classes(rows), valid)
    if labelled:
      scores = np.where(pseudo, rng.random((size, rows)), 1.0).astype(np.float32)
      truth = dataclasses.replace(truth, pseudo=pseudo, scores=scores)
    if config.model.mask_head.layers:
      capacity = max(config.data.box.max_vertices, _POLYGON_CORNERS)
      vertices = np.zeros((size, rows, capacity, 2), np.float32)
      vertices[:, :, :_POLYGON_CORNERS] = ellipses(truth.boxes)
      owners = np.full((size, rows, capacity), -1, np.int32)
      owners[:, :annotated, :_POLYGON_CORNERS] = 0
      truth = dataclasses.replace(truth, vertices=vertices, owners=owners)
    fields["ground_truth"] = truth
  if kind == "image":
    rows = config.data.image.max_labels
    fields["pseudo_boxes"] = PseudoBoxes(boxes(rows), classes(rows), np.ones((size, rows), bool))
  if kind != "inference" and (rows := config.data[kind].max_regions):
    width = config.model.classifier.embedding_dim
    own = boxes(rows), rng.standard_normal((size, rows, width), np.float32)
    fields["regions"] = Regions(*own, np.ones((size, rows), bool))
  sizes = np.tile(np.array(canvas, np.int32), (size, 1))
  return Batch(
    images=rng.integers(0, 256, (size, *canvas, 3), np.uint8),
    sizes=sizes,
    original_sizes=sizes,
    image_ids=np.arange(size, dtype=np.int32),
    valid=np.ones(size, bool),
    **fields,
  )
