"""What is exported of a detector: a function of arrays alone, for each canvas that images need.

The network's form differs between platforms, and which it is has to be known when it is traced: so
a program for several platforms holds one form for each, of which a device compiles its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.words import padded
from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.models.detector import rcnn
from rkd_jax.structures import Batch
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

INPUTS = ("images", "sizes", "class_embeddings", "class_valid")
# Masks come last, and only of detectors that have them.
OUTPUTS = ("boxes", "scores", "classes", "valid", "masks")
PLATFORMS = ("cpu", "cuda", "tpu")
# Of a detector without a vocabulary of its own.
_MOST_WORDS = 256

# Parameters by their names, as in a checkpoint: 'backbone/stem/kernel'.
Params = dict[str, Any]


def params(detector: OpenVocabularyDetector) -> dict[str, np.ndarray]:
  """The detector's parameters by their names, on the host."""
  tree: Any = jax.device_get(detector.network.variables["params"])
  flat = traverse_util.flatten_dict(tree, sep="/")
  return {name: np.asarray(array, order="C") for name, array in sorted(flat.items())}


def outputs(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  return OUTPUTS if config.model.mask_head.layers else OUTPUTS[:-1]


def words(vocabulary: ClassEmbeddings | None, wanted: int | None = None) -> int:
  """How many rows of class embeddings a program takes, by default as many as `padded` makes.

  Raises:
    ValueError: fewer are wanted than the vocabulary has.
  """
  own = 0 if vocabulary is None else len(vocabulary.embeddings)
  if wanted is None:
    return _MOST_WORDS if vocabulary is None else len(padded(vocabulary.embeddings)[0])
  if wanted < max(own, 1):
    raise ValueError(f"--max_words={wanted} is too few: the detector's vocabulary has {own} words.")
  return wanted


def canvases(detector: OpenVocabularyDetector) -> list[tuple[int, int]]:
  """(height, width) of a lying and of a standing image, each no larger than it must be.

  A canvas for both would be as wide as it is high, and is what `data.eval.canvas` often is.
  """
  height, width = detector.spec.canvas
  short = -(-max(detector.spec.short_sides) // 64) * 64  # a multiple of all strides
  lying, standing = (min(short, height), width), (height, min(short, width))
  return list(dict.fromkeys((lying, standing)))


def arguments(
  config: ml_collections.ConfigDict, canvas: tuple[int, int], rows: int, batch: Any = 1
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes and types of `INPUTS`; the number of images may be symbolic."""
  width = config.model.classifier.embedding_dim
  return (
    jax.ShapeDtypeStruct((batch, *canvas, 3), np.uint8),
    jax.ShapeDtypeStruct((batch, 2), np.int32),
    jax.ShapeDtypeStruct((rows, width), np.float32),
    jax.ShapeDtypeStruct((rows,), np.bool_),
  )


def for_platforms(config: ml_collections.ConfigDict) -> Callable[..., dict[str, Any]]:
  """`f(params, *INPUTS)` with any number of images, in the form of each of `PLATFORMS`.

  Images go through it one by one: their number is then free, and a result does not depend on what
  else is in the batch.
  """

  def mapped(params, images, sizes, class_embeddings, class_valid):
    def one(image):
      pixels, size = (x[None] for x in image)
      found = _detect(config, params, pixels, size, class_embeddings, class_valid)
      return {name: value[0] for name, value in found.items()}

    return jax.lax.map(one, (images, sizes))

  forms = {platform: compiled_for(mapped, target(config, platform)) for platform in PLATFORMS}
  return lambda *args: jax.lax.platform_dependent(*args, **forms)


def for_one_image(
  config: ml_collections.ConfigDict, params: Params
) -> Callable[..., tuple[Any, ...]]:
  """`f(*INPUTS)` of a batch of one with float32 throughout, as a CPU would compute it."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.dtype = "float32"

  def call(*args):
    return tuple(_detect(config, params, *args).values())

  return compiled_for(call, target(config, "cpu"))


def target(config: ml_collections.ConfigDict, platform: str) -> Target:
  precision = config.model.get("precision", "default")
  return Target("gpu" if platform == "cuda" else platform, precision=precision)


def _detect(
  config: ml_collections.ConfigDict, params: Params, images, sizes, class_embeddings, class_valid
) -> dict[str, Any]:
  """`RCNN.detect` by names."""
  tree = {"params": traverse_util.unflatten_dict(params, sep="/")}
  count = images.shape[0]
  batch = Batch(images, sizes, sizes, np.arange(count), np.ones(count, bool))
  network = rcnn.build(config)
  found = network.apply(tree, batch, class_embeddings, class_valid, method=network.detect)
  return {name: getattr(found, name) for name in outputs(config)}
