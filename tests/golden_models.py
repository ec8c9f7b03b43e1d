"""The originals' golden runs: their weights, batches and what they computed.

Weights are not stored: each is drawn from a generator seeded with its name, as the manifest says.
"""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.ops.polygons import pack_polygons
from rkd_jax.structures import Batch, GroundTruth, PseudoBoxes, Regions, Vocabulary
from rkd_jax.weights import detectron2

GOLDEN = Path(__file__).parents[0] / "golden" / "detector"


@functools.cache
def load(name: str) -> dict[str, np.ndarray]:
  """The arrays of a golden run; those of weight transfer are stored where base's differ."""
  shared = load(name.replace("wt", "base")) if "_wt_infer" in name else {}
  with np.load(GOLDEN / f"{name}.npz") as file:
    return {**shared, **file}


@functools.cache
def class_embeddings(dataset: str) -> np.ndarray:
  return np.load(GOLDEN / "class_embeddings.npz")[dataset]


def vocabulary(dataset: str) -> Vocabulary:
  """Embeddings and the synthetic image counts of the goldens; no images, no boxes."""
  counts = np.load(GOLDEN / "class_embeddings.npz")[f"{dataset}_image_count"]
  return Vocabulary(
    embeddings=class_embeddings(dataset),
    has_boxes=counts > 0,
    image_counts=counts.astype(np.float32),
  )


def manifest(name: str) -> list[dict[str, Any]]:
  """Name and shape of every entry of the original's state dict, and how its values are drawn.

  RKD has those of base.
  """
  return json.loads((GOLDEN / f"{name.replace('rkd', 'base')}_manifest.json").read_text())


def state_dict(name: str) -> dict[str, np.ndarray]:
  """The original's parameters, by their detectron2 names and layouts."""
  state = {}
  for entry in manifest(name):
    if "special" in entry:
      continue
    random = np.random.RandomState(zlib.crc32(entry["name"].encode()) & 0x7FFFFFFF)
    values = random.standard_normal(entry["shape"]).astype(np.float32)
    state[entry["name"]] = np.float32(entry["offset"]) + np.float32(entry["scale"]) * values
  return state


def parameters(name: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  return detectron2.to_params(state_dict(name), abstract_params(config))


def _stack(rows: list[np.ndarray], length: int) -> np.ndarray:
  padded = [np.pad(r, [(0, length - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows]
  return np.stack(padded)


def _valid(rows: list[np.ndarray], length: int) -> np.ndarray:
  return np.stack([np.arange(length) < len(r) for r in rows])


def batch(golden: dict[str, np.ndarray], canvas: tuple[int, int], padding: int = 0) -> Batch:
  """The images of a golden run, RGB, and whatever else it has, with `padding` more rows."""
  count = sum(f"image{i}" in golden for i in range(2))
  images = [golden[f"image{i}"][..., ::-1] for i in range(count)]
  canvases = np.full((count, *canvas, 3), 99, np.uint8)
  for target, image in zip(canvases, images, strict=True):
    target[: image.shape[0], : image.shape[1]] = image

  def rows(name):
    return [golden[f"{name}{i}"] for i in range(count)]

  fields = {}
  if "gt_boxes0" in golden:
    boxes = rows("gt_boxes")
    length = max(map(len, boxes)) + padding
    fields["ground_truth"] = GroundTruth(
      boxes=_stack(boxes, length).astype(np.float32),
      classes=_stack(rows("gt_classes"), length).astype(np.int32),
      valid=_valid(boxes, length),
      **_polygons(golden, count, length),
    )
  if "distill_boxes0" in golden:
    boxes = rows("distill_boxes")
    fields["regions"] = Regions(
      boxes=_stack(boxes, 5 + padding).astype(np.float32),
      embeddings=_stack(rows("distill_embeds"), 5 + padding),
      valid=_valid(boxes, 5 + padding),
    )
  if "pis_boxes0" in golden:
    fields["pseudo_boxes"] = _pseudo_boxes(golden, count, padding)
  sizes = np.array([image.shape[:2] for image in images], np.int32)
  return Batch(
    images=canvases,
    sizes=sizes,
    original_sizes=np.array([golden.get(f"out_hw{i}", sizes[i]) for i in range(count)], np.int32),
    image_ids=np.arange(count),
    valid=np.ones(count, bool),
    **fields,
  )


def _polygons(golden: dict[str, np.ndarray], count: int, length: int) -> dict[str, np.ndarray]:
  """One polygon per instance, where the golden run has masks."""
  if "gt_poly0" not in golden:
    return {}
  packed = []
  for i in range(count):
    ends = np.cumsum(golden[f"gt_poly{i}_len"])[:-1]
    polygons = np.split(golden[f"gt_poly{i}"], ends)
    packed.append([pack_polygons([polygon], capacity=24) for polygon in polygons])
  return {
    "vertices": _stack([np.stack([v for v, _ in image]) for image in packed], length),
    "owners": _stack([np.stack([o for _, o in image]) for image in packed], length),
  }


def _pseudo_boxes(golden: dict[str, np.ndarray], count: int, padding: int) -> PseudoBoxes:
  """The box whose key equals the label, for each image label."""
  boxes, classes = [], []
  for i in range(count):
    keys = golden[f"pis_keys{i}"].tolist()
    labels = golden[f"pos_category_ids{i}"]
    boxes.append(golden[f"pis_boxes{i}"][[keys.index(label) for label in labels]])
    classes.append(labels)
  length = max(map(len, boxes)) + padding
  return PseudoBoxes(
    boxes=_stack(boxes, length).astype(np.float32),
    classes=_stack(classes, length).astype(np.int32),
    valid=_valid(boxes, length),
  )
