"""The Python interface: images and words in, boxes out."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rkd_jax.detect.result import Result
from rkd_jax.detect.words import Words, padded
from rkd_jax.frozen.detector import Detector, encode_masks
from rkd_jax.inputs.examples import BatchSpec, collate, picture_example
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.records import decoding
from rkd_jax.structures import Batch
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

# A file, a picture of Pillow, or RGB (or grey) bytes.
AnyImage = str | os.PathLike | Image.Image | UInt8[np.ndarray, "h w *c"]
AnyWords = str | Sequence[str] | ClassEmbeddings
MIN_SCORE = 0.3


class _Image(NamedTuple):
  name: str
  image: Image.Image
  example: Batch


class OpenVocabularyDetector:
  """A trained detector and where it has words from; `rkd_jax.load` makes one.

      detector = rkd_jax.load("runs/coco/rkd", clip="ViT-B-32.pt")
      result = detector("street.jpg", ["red car", "dog"])
      result.draw().save("boxes.png")

  Calls may come from several threads.  The first image of a shape (lying, standing) and the first
  vocabulary of more than 32, 256, 2,048 and 16,384 words is compiled for; all others are not.

  Attributes:
    network: the detector itself, batches in and detections out.
    words: where words get their embeddings.
    base: words that it was trained on with boxes; None where that is not known.
  """

  def __init__(self, network: Detector, words: Words, base: Iterable[str] | None = None):
    self.network, self.words = network, words
    self.base = None if base is None else frozenset(base)
    self.spec: BatchSpec = detector_specs(network.config)["eval"]

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The config that it was trained with; its `data.eval` says how images are resized."""
    return self.network.config

  def vocabulary(
    self, words: AnyWords | None = None, templates: str | Sequence[str] | None = None
  ) -> ClassEmbeddings:
    """Words with their embeddings, to be given to calls in place of the words.

    None is the detector's own vocabulary; a text holds several words, separated by commas;
    `templates` are prompts such as 'a photo of a {}', over whose unit vectors is averaged.

    Raises:
      ValueError: no word, or one that has no embedding, with the remedy.
    """
    if words is None:
      return self.words.own()
    if isinstance(words, ClassEmbeddings):
      return words
    return self.words.embed(words, templates)

  def __call__(
    self,
    images: AnyImage | Sequence[AnyImage],
    words: AnyWords | None = None,
    *,
    min_score: float | Mapping[str, float] = MIN_SCORE,
    max_pixels: int = decoding.MAX_PIXELS,
  ) -> Any:
    """The `Result` of an image, or a list with that of each of several.

    Args:
      images: a file, a picture of Pillow, an array [height, width, 3] (or grey) of bytes in RGB, or
        a list of such.
      words: as in `vocabulary`; None looks for the detector's own.
      min_score: detections below it are left out; or a limit for each word.
      max_pixels: of an image.

    Raises:
      ValueError: see `vocabulary`; an array of another kind.
      BadImageError: an image cannot be decoded or is too large.
    """
    if isinstance(images, (list, tuple)):
      found = self.stream(images, words, min_score=min_score, max_pixels=max_pixels)
      return list(found)
    return next(self.stream([images], words, min_score=min_score, max_pixels=max_pixels))

  def stream(
    self,
    images: Iterable[AnyImage],
    words: AnyWords | None = None,
    *,
    min_score: float | Mapping[str, float] = MIN_SCORE,
    max_pixels: int = decoding.MAX_PIXELS,
    batch_size: int | None = None,
    keep: bool = True,
    on_bad: Callable[[str, decoding.BadImageError], None] | None = None,
  ) -> Iterator[Result]:
    """The `Result` of each image in turn, however many there are; arguments as for a call.

    Args:
      batch_size: images that are computed on at once; by default the config's for evaluation.
      keep: results hold their images, to be drawn on.
      on_bad: is told of images that cannot be decoded, with their names, and they are left out;
        by default the first is an error, after the results of those before it.
    """
    size = batch_size or self.spec.batch_size
    if isinstance(images, Sequence):
      size = min(size, 1 << max(len(images) - 1, 0).bit_length())
    # Words are looked up before any image is read.
    vocabulary = self.vocabulary(words)
    return self._stream(images, vocabulary, min_score, max_pixels, size, keep, on_bad)

  def _stream(
    self,
    images: Iterable[AnyImage],
    vocabulary: ClassEmbeddings,
    min_score: float | Mapping[str, float],
    max_pixels: int,
    size: int,
    keep: bool,
    on_bad: Callable[[str, decoding.BadImageError], None] | None,
  ) -> Iterator[Result]:
    rows, valid = padded(vocabulary.embeddings)
    base = self.base
    seen = None if base is None else np.array([name in base for name in vocabulary.names or ()])
    for chunk in self._chunks(images, size, max_pixels, on_bad):
      # The last batch is filled with copies: one compiled shape for all.
      filler = dataclasses.replace(chunk[-1].example, valid=np.array(False))
      examples = [image.example for image in chunk] + [filler] * (size - len(chunk))
      found = self.network.detect(collate(examples), rows, valid, seen)
      for row, (name, image, _) in enumerate(chunk):
        kept = found.valid[row]
        boxes, extent = found.boxes[row][kept], image.size[::-1]
        masks = None if found.masks is None else found.masks[row][kept]
        yield Result(
          boxes=boxes,
          scores=found.scores[row][kept],
          classes=found.classes[row][kept],
          names=vocabulary.names or (),
          segmentations=None if masks is None else encode_masks(masks, boxes, *extent),
          size=extent,
          image=image if keep else None,
          name=name,
          base=self.base,
        ).above(min_score)

  def _chunks(
    self,
    images: Iterable[AnyImage],
    size: int,
    max_pixels: int,
    on_bad: Callable[[str, decoding.BadImageError], None] | None,
  ) -> Iterator[list[_Image]]:
    """The images in lists of `size`; those before a bad one come first."""
    chunk: list[_Image] = []
    for number, given in enumerate(images):
      name = _name(given, number)
      try:
        image = _opened(given, name, max_pixels)
        example = picture_example(image, self.spec, name, self.spec.view(image.size[::-1]))
      except ValueError as error:
        if on_bad is None or not isinstance(error, decoding.BadImageError):
          if chunk:
            yield chunk
          raise
        on_bad(name, error)
        continue
      chunk.append(_Image(name, image, example))
      if len(chunk) == size:
        yield chunk
        chunk = []
    if chunk:
      yield chunk


def _name(given: AnyImage, number: int) -> str:
  if isinstance(given, (str, os.PathLike)):
    return os.fspath(given)
  return getattr(given, "filename", "") or f"image {number}"


def _opened(given: AnyImage, name: str, max_pixels: int) -> Image.Image:
  """The upright image in RGB."""
  if isinstance(given, (str, os.PathLike)):
    return decoding.open_file(given, max_pixels)
  if isinstance(given, Image.Image):
    return decoding.in_rgb(given, name, max_pixels)
  array = np.asarray(given)
  grey = array.ndim == 2
  if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)):
    raise ValueError(
      f"{name} is an array of {array.dtype} {array.shape}; expected uint8 [height, width, 3] in "
      "RGB, or grey [height, width]."
    )
  return decoding.in_rgb(Image.fromarray(array), name, max_pixels)
