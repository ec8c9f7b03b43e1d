"""CLIP embeddings of image regions: crop each box, embed the crop.

These are I(r̃) of the region-based distillation (arXiv 2207.03482, section 3.2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8
from PIL import Image

from rkd_jax.machine.batches import map_batches
from rkd_jax.machine.compilation import matmul_options
from rkd_jax.models.clip.model import Clip
from rkd_jax.models.clip.preprocess import normalize


def resize_and_center_crop(image: Image.Image, size: int) -> Image.Image:
  """Bicubic resize of the shorter side to `size`, then the central `size` square, then RGB.

  Rounds as CLIP's own transform does: the longer side down, the crop's offset half to even.
  A very thin image keeps little more than its central square.
  """
  width, height = image.size
  short = min(width, height)
  width, height = size * width // short, size * height // short
  if (width, height) != image.size:
    image = image.resize((width, height), Image.Resampling.BICUBIC)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return image.crop((left, top, left + size, top + size)).convert("RGB")


def _square(
  box: Float[np.ndarray, "4"], image: UInt8[np.ndarray, "h w 3"], size: int
) -> Image.Image:
  left, top, right, bottom = box
  side = max(1, round(max(right - left, bottom - top)))
  left, top = round((left + right - side) / 2), round((top + bottom - side) / 2)
  # Indices beyond the border repeat the border.
  rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
  columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
  crop = Image.fromarray(image[rows[:, None], columns])
  return crop.resize((size, size), Image.Resampling.BICUBIC)


def _clip(box: Float[np.ndarray, "4"], image: UInt8[np.ndarray, "h w 3"], size: int) -> Image.Image:
  return resize_and_center_crop(Image.fromarray(image).crop(tuple(box.tolist())), size)


def crop_regions(
  image: UInt8[np.ndarray, "h w 3"],
  boxes: Float[np.ndarray, "k 4"],
  size: int,
  context: float = 0.12,
  mode: Literal["square", "clip"] = "square",
) -> UInt8[np.ndarray, "k size size 3"]:
  """Cuts boxes out of an image and brings them to one size.

  Args:
    image: RGB.
    boxes: XYXY in pixels of the image; may reach over its border.
    size: side of the crops.
    context: every side of a box first moves outwards by this fraction of its width or height.
    mode: "square" takes the square around the box with the box's longer side, repeating the border
      pixels outside the image, so that the whole object stays visible undistorted.  "clip" with
      `context=0` is what the published RKD code did: the box rounded half to even, black outside
      the image, then CLIP's own transform, of which a thin box keeps only the middle.

  Raises:
    ValueError: a box is not finite, or empty (for "clip", also after rounding); its index is
      named.  The reference instead drops the image's remaining boxes without a word.
  """
  if mode not in ("square", "clip"):
    raise ValueError(f"mode is {mode!r}; use 'square' or 'clip'")
  boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  margin = context * (boxes[:, 2:] - boxes[:, :2])
  enlarged = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
  crops = np.empty((len(boxes), size, size, 3), np.uint8)
  for i, box in enumerate(enlarged):
    checked = np.round(box) if mode == "clip" else box
    if not np.isfinite(box).all() or (checked[2:] <= checked[:2]).any():
      raise ValueError(f"box {i} {boxes[i].tolist()} is empty or not finite; filter such boxes out")
    crops[i] = np.asarray((_square if mode == "square" else _clip)(box, image, size))
  return crops


class RegionEncoder:
  """Embeds crops with a frozen CLIP image tower, compiled once for `batch_size` crops.

  Args:
    model, variables: a CLIP.
    batch_size: crops per call of the compiled function, rounded up to a multiple of the devices.
    devices: among which each batch is split; by default one.
  """

  def __init__(
    self,
    model: Clip,
    variables: Mapping[str, Any],
    batch_size: int = 64,
    devices: Sequence[jax.Device] = (),
  ):
    self._model = model
    self._variables = variables
    self._batch_size = batch_size
    self._place = lambda batch: batch
    if len(devices) > 1:
      mesh = Mesh(np.array(devices), ("crops",))
      self._variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
      self._batch_size = -(-batch_size // len(devices)) * len(devices)
      split = NamedSharding(mesh, PartitionSpec("crops"))
      self._place = lambda batch: jax.device_put(batch, split)
    platform = (devices or jax.devices())[0].platform
    self._encode = jax.jit(
      lambda variables, images: jnp.asarray(
        model.apply(variables, normalize(images), method=Clip.encode_image), "float32"
      ),
      compiler_options=matmul_options(platform),
    )

  @property
  def image_size(self) -> int:
    """Side of the crops that `embed` takes."""
    return self._model.config.image_resolution

  def embed(self, crops: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Embeddings of the crops, float32, not normalised."""
    if len(crops) == 0:
      return np.zeros((0, self._model.config.embed_dim), np.float32)
    return map_batches(
      lambda batch: self._encode(self._variables, self._place(batch)),
      np.asarray(crops),
      self._batch_size,
    )
