"""Detects with the exported detector of this folder, without the program that exported it.

  python run.py IMAGES... [--words=FILE.npz] [--min_score=0.3]

prints a line of JSON for each image: {"file", "detections": [{"word", "score", "box"}]}, boxes as
[x1, y1, x2, y2] in pixels of the upright image.  From Python:

  from run import Exported
  detector = Exported(".")
  found = detector("image.jpg")

NumPy and Pillow are needed, and what runs the model: jax and flatbuffers, onnxruntime, or
tensorflow.  FILE.npz holds `names` and `embeddings` [words, width] of the CLIP that the detector
was trained with, as class_embeddings.npz here does.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

FORMAT = "rkd_jax export 1"
ABOUT, WEIGHTS, VOCABULARY = "export.json", "weights.safetensors", "class_embeddings.npz"

# Of the inputs by name, outputs by name, as README.md describes them.
Program = Callable[[dict[str, np.ndarray]], dict[str, Any]]


class Words(NamedTuple):
  """Words and their embeddings [words, width]."""

  names: tuple[str, ...]
  embeddings: np.ndarray


class Exported:
  """An exported detector: images in, boxes out.

  Attributes:
    about: export.json.
    words: its own vocabulary; None where it has none.
  """

  def __init__(self, folder: str | os.PathLike = "."):
    """Opens the folder; models are compiled when the first image asks for them.

    Raises:
      ValueError: it is no folder of an exported detector.
    """
    self.folder = Path(folder)
    file = self.folder / ABOUT
    self.about = json.loads(file.read_text()) if file.is_file() else {}
    if self.about.get("format") != FORMAT:
      raise ValueError(f"{self.folder} has no {ABOUT} of an exported detector ({FORMAT}).")
    own = self.folder / VOCABULARY
    self.words = read_words(own) if own.is_file() else None
    self._programs: dict[int, Program] = {}

  def __call__(
    self,
    image: str | os.PathLike | Image.Image,
    words: Words | None = None,
    min_score: float = 0.3,
  ) -> dict[str, Any]:
    """What is found in an image, best first.

    Returns:
      boxes: float32 [n, 4], x1, y1, x2, y2 in pixels of the upright image.
      scores: float32 [n].
      classes: int32 [n], places in the list of words.
      labels: their names.
      masks: float32 [n, m, m], probabilities in the frames of the boxes (see `paste`); only of a
        detector with masks.

    Raises:
      ValueError: there are no words, too many, or embeddings of another width.
    """
    words = words or self.words
    if words is None:
      raise ValueError(f"The detector has no {VOCABULARY}: give words with their embeddings.")
    rows, valid = self._padded(words.embeddings)
    if not isinstance(image, Image.Image):
      with Image.open(image) as opened:
        opened.load()
      image = opened
    picture = ImageOps.exif_transpose(image).convert("RGB")
    pixels, size, number = self._on_canvas(picture)
    found = self.program(number)(
      {
        "images": pixels[None],
        "sizes": np.array([size], np.int32),
        "class_embeddings": rows,
        "class_valid": valid,
      }
    )
    found = {name: np.asarray(value)[0] for name, value in found.items()}
    width, height = picture.size
    scale = np.array([height, width], np.float32) / np.array(size, np.float32)
    limits = np.array([width, height, width, height], np.float32)
    boxes = np.clip(found["boxes"] * scale[[1, 0, 1, 0]], 0, limits)
    kept = found["valid"] & (found["scores"] >= min_score)
    kept &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    result = {"boxes": boxes[kept], "scores": found["scores"][kept]}
    result["classes"] = found["classes"][kept]
    result["labels"] = [words.names[i] for i in result["classes"]]
    if "masks" in found:
      result["masks"] = found["masks"][kept]
    return result

  def program(self, number: int) -> Program:
    """The model for the canvas of that number in export.json, opened once."""
    if number not in self._programs:
      opener = {"jax": _jax, "onnx": _onnx, "savedmodel": _savedmodel}[self.about["kind"]]
      self._programs[number] = opener(self.folder, self.about["programs"][number])
    return self._programs[number]

  def _padded(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    most, width = self.about["max_words"], self.about["embedding_dim"]
    if embeddings.ndim != 2 or embeddings.shape[1] != width or not 0 < len(embeddings) <= most:
      raise ValueError(
        f"Embeddings are {list(embeddings.shape)}; expected [words, {width}] of at most {most} "
        "words, from the CLIP that the detector was trained with."
      )
    rows = np.zeros((most, width), np.float32)
    rows[: len(embeddings)] = embeddings
    return rows, np.arange(most) < len(embeddings)

  def _on_canvas(self, picture: Image.Image) -> tuple[np.ndarray, tuple[int, int], int]:
    """The resized image on the first canvas that it fits, its (height, width), and which."""
    width, height = picture.size
    size = resized_size(height, width, self.about["short_side"], self.about["max_side"])
    for number, program in enumerate(self.about["programs"]):
      rows, columns = program["canvas"]
      if size[0] <= rows and size[1] <= columns:
        pixels = np.zeros((rows, columns, 3), np.uint8)
        if picture.size != size[::-1]:
          picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels[: size[0], : size[1]] = np.asarray(picture)
        return pixels, size, number
    raise ValueError(
      f"An image of {width} x {height} fits none of the canvases, resized to {size}."
    )


def resized_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
  """(height, width) with the short side at `short_side`, the long one not above `max_side`."""
  scale = short_side / min(height, width)
  new = (short_side, scale * width) if height < width else (scale * height, short_side)
  if max(new) > max_side:
    shrink = max_side / max(new)
    new = new[0] * shrink, new[1] * shrink
  return max(int(new[0] + 0.5), 1), max(int(new[1] + 0.5), 1)


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
  """A mask's probabilities at their place in an image of this size; the object is above 0.5."""
  weights = []
  for low, high, cells, pixels in (
    (box[1], box[3], mask.shape[0], height),
    (box[0], box[2], mask.shape[1], width),
  ):
    at = (np.arange(pixels, dtype=np.float32) + 0.5 - low) / (high - low) * cells - 0.5
    weights.append(np.maximum(1 - np.abs(at[:, None] - np.arange(cells)), 0))
  return weights[0] @ mask @ weights[1].T


def read_words(file: str | os.PathLike) -> Words:
  """Words with their embeddings from an .npz."""
  with np.load(file, allow_pickle=False) as arrays:
    return Words(tuple(map(str, arrays["names"])), np.asarray(arrays["embeddings"], np.float32))


def read_weights(file: Path) -> dict[str, np.ndarray]:
  """The arrays of a file of safetensors, which stay on the disk until they are used."""
  with file.open("rb") as opened:
    length = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(length))
  header.pop("__metadata__", None)
  content = np.memmap(file, np.uint8, "r", 8 + length)
  return {
    name: content[slice(*entry["data_offsets"])]
    .view({"F32": np.float32, "I32": np.int32}[entry["dtype"]])
    .reshape(entry["shape"])
    for name, entry in header.items()
  }


def _jax(folder: Path, program: dict[str, Any]) -> Program:
  import jax
  from jax import export

  exported = export.deserialize(bytearray((folder / program["file"]).read_bytes()))
  weights = jax.device_put(read_weights(folder / WEIGHTS))
  call = jax.jit(exported.call)
  return lambda inputs: jax.device_get(call(weights, *inputs.values()))


def _onnx(folder: Path, program: dict[str, Any]) -> Program:
  import onnxruntime

  session = onnxruntime.InferenceSession(
    folder / program["file"], providers=onnxruntime.get_available_providers()
  )
  names = [output.name for output in session.get_outputs()]
  return lambda inputs: dict(zip(names, session.run(names, inputs)))


def _savedmodel(folder: Path, program: dict[str, Any]) -> Program:
  import tensorflow as tf

  model = tf.saved_model.load(os.fspath(folder))
  call = model.signatures[program["signature"]]

  def run(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    return call(**{name: tf.constant(value) for name, value in inputs.items()})

  # The signature holds no reference to the variables.
  run.model = model  # pyright: ignore[reportFunctionMemberAccess]
  return run


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("images", nargs="+", help="files")
  parser.add_argument("--words", help="another vocabulary, .npz")
  parser.add_argument("--min_score", type=float, default=0.3, help="least score of what is printed")
  given = parser.parse_args(arguments)
  try:
    detector = Exported(Path(__file__).parent)
    words = read_words(given.words) if given.words else None
    for file in given.images:
      found = detector(file, words, given.min_score)
      rows = zip(found["labels"], found["scores"].tolist(), found["boxes"].tolist())
      detections = [{"word": w, "score": s, "box": box} for w, s, box in rows]
      print(json.dumps({"file": file, "detections": detections}), flush=True)
  except (ValueError, OSError, KeyError, ImportError) as error:
    sys.exit(f"{error}")


if __name__ == "__main__":
  main()
