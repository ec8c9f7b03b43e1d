"""The TFDS record that every data set of this project is stored as.

Boxes enter and leave as XYXY absolute pixels; only here are they turned into the normalised
(ymin, xmin, ymax, xmax) of `tfds.features.BBoxFeature`.  Data sets of earlier versions have fields
`regions/*` and `pseudo_boxes/*` for what now lies beside the records (`records.results`).
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

# Annotation tools round: a box may stick out of the image by this many pixels and is clipped.
_ROUNDING = 1.0

FEDERATED = ("negative_labels", "not_exhaustive_labels")


def features(
  class_names: Sequence[str], polygons: bool = False, federated: bool = False
) -> tfds.features.FeaturesDict:
  """The schema for the given classes.

  Args:
    class_names: in the order of their numbers.
    polygons: with the objects' masks: all polygons of the image one after the other in
      `polygons/vertices` (XY pixels), how many vertices each has in `polygons/lengths`, and the
      row of `objects` that each belongs to in `polygons/objects`.
    federated: with what LVIS says of the classes of an image beside its objects:
      `negative_labels` (looked for, not there) and `not_exhaustive_labels` (not all are boxed).
  """
  label = tfds.features.ClassLabel(names=list(class_names))

  more = {}
  if polygons:
    more |= {
      "polygons/vertices": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
      "polygons/lengths": tfds.features.Tensor(shape=(None,), dtype=np.int64),
      "polygons/objects": tfds.features.Tensor(shape=(None,), dtype=np.int64),
    }
  if federated:
    more |= {name: tfds.features.Sequence(label) for name in FEDERATED}
  return tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "image/id": np.int64,
      "image/filename": tfds.features.Text(),
      "image/height": np.int32,
      "image/width": np.int32,
      "objects": tfds.features.Sequence(
        {
          "bbox": tfds.features.BBoxFeature(),
          "label": label,
          "id": np.int64,
          "area": np.float32,
          "is_crowd": np.bool_,
        }
      ),
      "captions": tfds.features.Sequence(tfds.features.Text()),
      "labels": tfds.features.Sequence(label),
      **more,
    }
  )


def encode_record(
  *,
  image: bytes,
  image_id: int,
  filename: str,
  height: int,
  width: int,
  boxes: Float[np.ndarray, "g 4"] | Sequence = (),
  classes: Sequence[int] = (),
  object_ids: Sequence[int] | None = None,
  areas: Sequence[float] | None = None,
  is_crowd: Sequence[bool] | None = None,
  captions: Sequence[str] = (),
  labels: Sequence[int] = (),
  polygons: Sequence[Sequence[np.ndarray]] | None = None,
  federated: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
  """One example for a builder to yield, boxes given as XYXY pixels.

  Args:
    image: encoded bytes, stored as they are.
    object_ids: annotation ids; by default 1, 2, ... within the image.
    areas: of the objects' masks in pixels²; by default those of the boxes.
    is_crowd: by default all False.
    labels: image-level labels, 0-based classes.
    polygons: of each object, XY pixels [v, 2]; for schemas with `polygons`.
    federated: classes by the names in FEDERATED; for schemas with `federated`.

  Raises:
    ValueError: a box is not finite, has no positive size or lies outside the image, or another
      number of classes or of objects with polygons than of boxes.
  """
  where = f"image {filename!r} (id {image_id})"
  xyxy = _checked_boxes(boxes, height, width, where)
  count = len(xyxy)
  if len(classes) != count:
    raise ValueError(f"{where}: {count} boxes but {len(classes)} classes, expected one for each")
  if areas is None:
    areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])  # pyright: ignore[reportAssignmentType]
  objects = {
    "bbox": xyxy[:, [1, 0, 3, 2]] / [height, width, height, width],
    "label": classes,
    "id": range(1, count + 1) if object_ids is None else object_ids,
    "area": areas,
    "is_crowd": [False] * count if is_crowd is None else is_crowd,
  }
  more = {} if polygons is None else _flat_polygons(polygons, count, where)
  if federated is not None:
    more |= {name: [int(label) for label in federated[name]] for name in FEDERATED}
  return {
    "image": io.BytesIO(image),
    "image/id": int(image_id),
    # Names whose bytes are not UTF-8 come back as they were.
    "image/filename": filename.encode("utf-8", "surrogateescape"),
    "image/height": height,
    "image/width": width,
    "objects": [dict(zip(objects, values)) for values in zip(*objects.values())],
    "captions": list(captions),
    "labels": [int(label) for label in labels],
    **more,
  }


def decode_boxes(
  bbox: Float[np.ndarray, "g 4"], height: int, width: int
) -> Float[np.ndarray, "g 4"]:
  """Normalised yxyx as stored back to XYXY pixels, float32."""
  scale = np.array([height, width, height, width], np.float64)
  return (np.asarray(bbox, np.float64).reshape(-1, 4) * scale)[:, [1, 0, 3, 2]].astype(np.float32)


def decode_polygons(
  vertices: Float[np.ndarray, "v 2"],
  lengths: Int[np.ndarray, "p"],
  objects: Int[np.ndarray, "p"],
  count: int,
) -> tuple[tuple[Float[np.ndarray, "_ 2"], ...], ...]:
  """The polygons of each of `count` objects, float64 XY pixels.

  Records hold single precision.  Annotation files have two decimals, and those come back exactly:
  rasterising rounds to fifths of a pixel, so that the last bit can move a mask.
  """
  exact = np.asarray(vertices, np.float64).reshape(-1, 2)
  decimal = np.round(exact, 2)
  exact = np.where(decimal.astype(np.float32) == exact, decimal, exact)
  parts = np.split(exact, np.cumsum(lengths)[:-1]) if len(lengths) else []
  return tuple(
    tuple(part for part, owner in zip(parts, objects) if owner == index) for index in range(count)
  )


def _flat_polygons(
  polygons: Sequence[Sequence[np.ndarray]], count: int, where: str
) -> dict[str, np.ndarray]:
  if len(polygons) != count:
    raise ValueError(f"{where}: {count} boxes but polygons of {len(polygons)} objects")
  parts = [np.asarray(part, np.float32).reshape(-1, 2) for own in polygons for part in own]
  return {
    "polygons/vertices": np.concatenate([np.zeros((0, 2), np.float32), *parts]),
    "polygons/lengths": np.array([len(part) for part in parts], np.int64),
    "polygons/objects": np.repeat(np.arange(count), [len(own) for own in polygons]),
  }


def _checked_boxes(boxes: Any, height: int, width: int, where: str) -> np.ndarray:
  xyxy = np.asarray(boxes, np.float64).reshape(-1, 4)
  limits = np.array([width, height, width, height])
  bad = ~np.isfinite(xyxy).all(1)
  bad |= (xyxy[:, :2] >= xyxy[:, 2:]).any(1)
  bad |= ((xyxy < -_ROUNDING) | (xyxy > limits + _ROUNDING)).any(1)
  clipped = np.clip(xyxy, 0, limits)
  bad |= (clipped[:, :2] >= clipped[:, 2:]).any(1)
  if bad.any():
    index = int(np.argmax(bad))
    raise ValueError(
      f"{where}: box {index} is {xyxy[index].tolist()}, expected finite x1 < x2 and y1 < y2 "
      f"inside the image of {width}×{height} pixels; correct or remove the annotation"
    )
  return clipped
