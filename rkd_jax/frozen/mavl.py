"""Asking MAVL for boxes, and what RKD and ILS make of its answers.

    mavl = Mavl.load("MDef_DETR_r101_epoch20.pth", "vocab.json", "merges.txt")
    answers = mavl.infer(image, RKD_QUERIES)       # boxes and scores for each query
    boxes, scores = select_regions(answers)        # the five regions of RKD
    boxes, scores = mavl.infer(image, ["every dog"])[0]  # the best of them is ILS's pseudo box

The image is resized so that its short side has 800 pixels (PIL's bilinear, antialiased, no limit
on the long side) and laid on one of a few canvases per orientation, so that few shapes are
compiled; the canvas changes no result.  It is encoded once for all queries.  Calls from several
threads spread over the local devices.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from rkd_jax.files.untrusted.torch_reader import read_checkpoint
from rkd_jax.machine.replicas import Replicas
from rkd_jax.models.mavl.model import RELEASED, Mvit, MvitConfig
from rkd_jax.models.mavl.tokenizer import Tokenizer, Tokens
from rkd_jax.ops.host import iou, suppress
from rkd_jax.structures import Arr
from rkd_jax.weights import published
from rkd_jax.weights.mavl import params_from_torch
from rkd_jax.weights.rename import WeightsError

# What RKD asks of every image (arXiv 2207.03482, section 3.2, as published).
RKD_QUERIES = (
  "all objects",
  "all entities",
  "all visible objects and entities",
  "all obscure objects and entities",
)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Long sides of the canvases, as multiples of the short side: those of common cameras, then wider.
_ASPECTS = (1.0, 1.2, 1.36, 1.52, 1.8, 2.4, 3.2, 4.8, 6.4, 10.0)

Answer = tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, "k"]]


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
  """(height, width) with the short side as given and the long one rounded down."""
  if height < width:
    return short_side, int(short_side * width / height)
  return int(short_side * height / width), short_side


def canvas_size(height: int, width: int) -> tuple[int, int]:
  """The smallest canvas for a resized image.

  Raises:
    ValueError: the image is longer than ten times its short side.
  """
  short, long = sorted((height, width))
  fitting = [side for side in (round(short * aspect) for aspect in _ASPECTS) if side >= long]
  if not fitting:
    raise ValueError(
      f"an image resized to {width} x {height} is more than {_ASPECTS[-1]:g} times as long as "
      "it is wide: cut it into pieces."
    )
  return (short, fitting[0]) if height < width else (fitting[0], short)


def normalize(images: UInt8[Arr, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
  """uint8 RGB to float32 with ImageNet's channel mean and standard deviation."""
  return (jnp.asarray(images, jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)


def corners(boxes: Float[np.ndarray, "n 4"], width: int, height: int) -> Float[np.ndarray, "n 4"]:
  """Centres and sizes, as parts of an image's width and height, to XYXY pixels."""
  centre, half = boxes[:, :2], boxes[:, 2:] / 2
  found = np.concatenate([centre - half, centre + half], 1)
  return found.astype(np.float32) * np.array([width, height, width, height], np.float32)


class Mavl:
  """MAVL with its weights and tokenizer; `short_side` is that of the resized image, in pixels."""

  def __init__(
    self,
    variables: Any,
    tokenize: Callable[[Sequence[str]], Tokens],
    config: MvitConfig = RELEASED,
    short_side: int = 800,
  ):
    self._replicas = Replicas(variables)
    self._tokenize = tokenize
    self._short_side = short_side
    # Encoded texts [t, c] and the validity of their tokens, by query; on the host, for any device.
    self._texts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def jit(method: Callable) -> Callable:
      return jax.jit(functools.partial(Mvit(config).apply, method=method))

    def fuse(model, objects, text, valid):
      objects = jnp.broadcast_to(objects, (len(text), *objects.shape[1:]))
      predictions = model.fuse(objects, text, valid)
      return predictions.boxes, predictions.scores

    self._encode_image = jit(
      lambda model, images, size: model.encode_image(normalize(images), size)
    )
    self._encode_text = jit(lambda model, tokens: model.encode_text(*tokens))
    self._fuse = jit(fuse)

  @classmethod
  def load(
    cls,
    checkpoint: str | os.PathLike,
    vocabulary: str | os.PathLike,
    merges: str | os.PathLike,
    config: MvitConfig = RELEASED,
    short_side: int = 800,
  ) -> "Mavl":
    """Reads a released checkpoint (.pth, or .npz of the same names) and a RoBERTa vocabulary.

    Raises:
      ReadError: the checkpoint is damaged or holds more than arrays.
      ValueError: its parameters do not fit `config`.
      FileNotFoundError: there is no such checkpoint; see also `Tokenizer`.
    """
    published.check_there(checkpoint)
    tokenizer = Tokenizer(vocabulary, merges, config.text_positions - 2, config.vocab_size)
    try:
      variables = params_from_torch(read_checkpoint(checkpoint), config)
    except WeightsError as error:
      raise WeightsError(f"{os.fspath(checkpoint)}: {error}") from error
    return cls(variables, tokenizer, config, short_side)

  def infer(
    self, image: UInt8[np.ndarray, "h w 3"], queries: Sequence[str], truncate: bool = True
  ) -> list[Answer]:
    """Boxes and scores of every object, for each query, in no particular order.

    Boxes are XYXY in pixels of `image`, float32, not clipped to it; `truncate` cuts them to whole
    pixels towards zero, as the original does.  Scores are the probabilities of being any object, in
    (0, 1]; objects whose probability vanishes are left out.

    Raises:
      ValueError: the image is not uint8 [h, w, 3], is empty or extremely long, or a query is too
        long.
    """
    if not len(queries):
      return []
    canvas, size = self._on_canvas(image)
    with self._replicas.lease() as variables:
      objects = self._encode_image(variables, canvas, size)
      text, valid = self._encoded(variables, queries)
      boxes, scores = jax.device_get(self._fuse(variables, objects, text, valid))
    height, width = image.shape[:2]
    answers = []
    for centred, score in zip(boxes[: len(queries)], scores):
      found, kept = corners(centred, width, height), score > 0
      answers.append(((np.trunc(found) if truncate else found)[kept], score[kept]))
    return answers

  def _on_canvas(
    self, image: UInt8[np.ndarray, "h w 3"]
  ) -> tuple[UInt8[np.ndarray, "1 H W 3"], Int[np.ndarray, "1 2"]]:
    """The resized image on its canvas, and its (height, width) there."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
      raise ValueError(
        f"expected a uint8 image [h, w, 3], got {image.dtype} {list(image.shape)}: decode to RGB."
      )
    size = resized_size(image.shape[0], image.shape[1], self._short_side)
    canvas = np.zeros((1, *canvas_size(*size), 3), np.uint8)
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    canvas[0, : size[0], : size[1]] = np.asarray(resized)
    return canvas, np.array([size], np.int32)

  def _encoded(self, variables: Any, queries: Sequence[str]):
    """Encoded texts [q, t, c] and the validity of their tokens, q rounded up to a power of two."""
    for query in queries:
      if query not in self._texts:
        # By itself, so that its bits depend neither on the queries nor on the threads before.
        tokens = self._tokenize([query])
        encoded = jax.device_get(self._encode_text(variables, tokens))
        self._texts[query] = encoded[0], tokens.valid[0]
    rows = [self._texts[query] for query in queries]
    length = max(len(row) for row, _ in rows)
    count = 1 << (len(rows) - 1).bit_length()
    text = np.zeros((count, length, rows[0][0].shape[1]), np.float32)
    valid = np.zeros(text.shape[:2], bool)
    for i, (row, row_valid) in enumerate(rows):
      text[i, : len(row)], valid[i, : len(row)] = row, row_valid
    return text, valid


def nms(
  boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, "n"], iou_threshold: float
) -> Int[np.ndarray, "k"]:
  """Indices of what greedy non-maximum suppression keeps, best first.

  As in the original, the sides of a box in whole pixels include its last pixel, so that areas and
  intersections count (x1 - x0 + 1) (y1 - y0 + 1), and a box stays if its IoU is at most the
  threshold.  Among equal scores the later comes first.
  """
  flipped = (np.asarray(boxes, np.float64) + np.array([0, 0, 1, 1]))[::-1]
  return len(boxes) - 1 - suppress(iou(flipped, flipped), scores[::-1], iou_threshold)


def select_regions(
  answers: Sequence[Answer], per_query: int = 50, nms_threshold: float = 0.5, top: int = 5
) -> Answer:
  """RKD's regions, best first.

  The `per_query` best boxes of each query are pooled, those that overlap above `nms_threshold`
  suppressed, and the `top` best of the rest are kept.
  """
  pooled = []
  for boxes, scores in answers:
    best = np.argsort(-scores, kind="stable")[:per_query]
    pooled.append((boxes[best], scores[best]))
  boxes, scores = map(np.concatenate, zip(*pooled))
  kept = nms(boxes, scores, nms_threshold)[:top]
  return boxes[kept], scores[kept]
