"""Draws what a detector finds on any images, for any class names.

  python -m rkd_jax.predict --config=CONFIG.py --checkpoint=WORKDIR --images='FOLDER/*.jpg' \\
    --classes='person, red kite' --clip=CLIP_WORKDIR --output=DIR

Each class name needs a text embedding.  It comes from the text tower of a CLIP run (--clip), or
is looked up by name in a file of `rkd_jax.embed_classes` (--class_embeddings; by default the
file that the config names).  Without --classes every class of that file is looked for.

--images is a file, a folder (its files that are named like images) or a pattern, see
`files.patterns`.  DIR gets a picture (PNG) per image, in the same subfolders, and
`predictions.json`, in the manner of COCO results but with the boxes as [x1, y1, x2, y2]:

  {"classes": [name, ...], "complete": true,
   "images": [{"id", "file_name", "picture", "height", "width"}, ...],
   "detections": [{"image_id", "category_id", "category", "bbox_xyxy", "score"}, ...],
   "skipped": [file name, ...]}

Names are as Python has them (`os.fsdecode`): bytes of a name that are not UTF-8 are \\udc80 to
\\udcff, and `os.fsencode` gives the name back.  An image that cannot be decoded or is larger than
--max_pixels ends the run, or with --skip_bad_images is left out.  A run that ends early, also by
Ctrl-C or SIGTERM (exit codes 130 and 143), leaves the pictures and the `predictions.json` of the
images that were done, with "complete": false.  The same command then begins anew.

A detector with a mask head draws its masks, too, and adds "segmentation" to each detection:
COCO's compressed run lengths {"size": [height, width], "counts"}.

Boxes and masks are in pixels of the upright image, `category_id` is the 0-based place in "classes".
Names that are not among the base classes (of --base, or else of the config's data set, if it is
built here) are drawn in the colour of novel classes.
"""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging
from jaxtyping import Float
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.files import patterns, storage
from rkd_jax.frozen.detector import Detector, encode_masks
from rkd_jax.inputs.examples import BatchSpec, collate, picture_example
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.pictures.draw import Picture, draw_detections, fitted, png_bytes
from rkd_jax.records import decoding
from rkd_jax.records.class_names import parse_names
from rkd_jax.structures import Batch
from rkd_jax.vocabulary import class_embeddings as class_embeddings_lib
from rkd_jax.vocabulary.vocabulary import class_vocabulary, training_source

RESULTS_FILE = "predictions.json"
# Of a folder, what is taken for an image; a pattern names files of any kind.
SUFFIXES = (
  *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp"),
  *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif"),
)


def find_images(pattern: str) -> list[Path]:
  """The image files that a file, folder or pattern names, sorted; see `patterns.find_files`.

  Raises:
    ValueError: there is none.
    OSError: a folder cannot be read.
  """
  files = patterns.find_files(pattern, SUFFIXES)
  if not files:
    raise ValueError(
      f"--images={pattern!r} matches no file. Check the folder, and quote the pattern: "
      "--images='FOLDER/*.jpg'."
    )
  return files


class _Image(NamedTuple):
  """An image on its way: which of the files, its (height, width), for the detector, to draw on."""

  index: int
  size: tuple[int, int]
  example: Batch
  shown: Picture


def predict(
  detector: Detector,
  spec: BatchSpec,
  files: Sequence[Path],
  names: Sequence[str],
  embeddings: Float[np.ndarray, "c e"],
  output: str | os.PathLike,
  base: Sequence[str] | None = None,
  min_score: float = 0.3,
  skip_bad_images: bool = False,
  max_pixels: int = decoding.MAX_PIXELS,
) -> dict[str, Any]:
  """Detects, draws, writes the pictures and the JSON of the module's docstring, and returns it.

  The JSON is written, of the images that were done, whatever ends the run.

  Args:
    detector: with its weights.
    spec: how images are resized and batched: the 'eval' one of `detector_specs`.
    files: images.
    names, embeddings: classes and their text embeddings.
    output: folder; made where it is not there.
    base: classes that were trained on; others are drawn as novel. None draws all as base.
    min_score: detections below it are left out.
    skip_bad_images: leave out images that cannot be decoded, with a counted warning.
    max_pixels: of an image; see `decoding.open_image`.

  Raises:
    ValueError: an image that cannot be decoded, or none that can; a picture that would
      replace an image or another picture.
  """
  pictures = _picture_files(files, Path(output))
  results = {"classes": list(names), "complete": False}
  results |= {"images": [], "detections": [], "skipped": []}
  size = min(spec.batch_size, len(files))
  try:
    for chunk in _chunks(files, spec, size, max_pixels, skip_bad_images, results["skipped"]):
      # The last batch is filled with copies: one compiled shape for all.
      filler = dataclasses.replace(chunk[-1].example, valid=np.array(False))
      examples = [image.example for image in chunk] + [filler] * (size - len(chunk))
      found = detector.detect(collate(examples), embeddings)
      for row, (index, (height, width), _, shown) in enumerate(chunk):
        keep = found.valid[row] & (found.scores[row] >= min_score)
        boxes, scores, classes = (a[row][keep] for a in (found.boxes, found.scores, found.classes))
        masks = None if found.masks is None else found.masks[row][keep]
        labels = [names[number] for number in classes]
        novel = [base is not None and label not in base for label in labels]
        drawn = boxes * (np.array(shown.shape[1::-1] * 2) / np.array([width, height] * 2))
        segmentations = _runs(masks, drawn, *shown.shape[:2])
        picture = draw_detections(shown, drawn, scores, labels, novel, segmentations=segmentations)
        storage.write(pictures[index], png_bytes(picture))
        if shown.shape[:2] != (height, width):
          segmentations = _runs(masks, boxes, height, width)
        picture_name = str(pictures[index].relative_to(output))
        entry = {"id": index, "file_name": str(files[index]), "picture": picture_name}
        results["detections"] += [
          {
            "image_id": index,
            "category_id": int(classes[i]),
            "category": labels[i],
            "bbox_xyxy": [round(float(value), 3) for value in boxes[i]],
            "score": round(float(scores[i]), 5),
            **({} if segmentations is None else {"segmentation": segmentations[i]}),
          }
          for i in range(len(boxes))
        ]
        results["images"].append({**entry, "height": height, "width": width})
        print(f"[{index + 1}/{len(files)}] {files[index]}: {_summary(labels)}", flush=True)
    if not results["images"]:
      raise ValueError(f"None of the {len(files)} images can be decoded.")
    results["complete"] = True
  except BaseException:
    # What was stopped between the two lists above.
    done = {entry["id"] for entry in results["images"]}
    results["detections"] = [d for d in results["detections"] if d["image_id"] in done]
    with contextlib.suppress(OSError):  # a full disk, of which the error tells that is on its way
      storage.write(Path(output) / RESULTS_FILE, json.dumps(results, indent=1))
    print(
      f"{len(done)} of {len(files)} images are done, with their pictures and {RESULTS_FILE} in "
      f"{output}. The same command begins anew.",
      flush=True,
    )
    raise
  storage.write(Path(output) / RESULTS_FILE, json.dumps(results, indent=1))
  return results


def _runs(
  masks: Float[np.ndarray, "n m m"] | None,
  boxes: Float[np.ndarray, "n 4"],
  height: int,
  width: int,
) -> list[dict[str, Any]] | None:
  return None if masks is None else encode_masks(masks, boxes, height, width)


def _picture_files(files: Sequence[Path], output: Path) -> list[Path]:
  """A PNG per image under `output`, in the same subfolders; no two alike, and no image itself.

  Images keep the names that they are given by, also where these are links.
  """
  files = [Path(os.path.abspath(file)) for file in files]
  root = os.path.commonpath([file.parent for file in files])
  relative = [file.relative_to(root) for file in files]
  pictures = [output / file.with_suffix(".png") for file in relative]
  if _collision(pictures):  # a.jpg and a.png
    pictures = [output / f"{file}.png" for file in relative]
  if alike := _collision(pictures):
    raise ValueError(f"Two images have the same picture {alike}: give one of them at a time.")
  own = {os.path.realpath(file) for file in files}
  for picture in pictures:
    if os.path.realpath(picture) in own:
      raise ValueError(f"The picture {picture} would replace an image: give another --output.")
  return pictures


def _collision(pictures: Sequence[Path]) -> Path | None:
  """A file that stands twice in a list, or is a folder of another; None where there is none."""
  folders = {folder for picture in pictures for folder in picture.parents}
  counts = collections.Counter(pictures)
  return next((p for p, count in counts.items() if count > 1 or p in folders), None)


def _chunks(
  files: Sequence[Path],
  spec: BatchSpec,
  size: int,
  max_pixels: int,
  skip_bad_images: bool,
  skipped: list[str],
) -> Iterator[list[_Image]]:
  """The images in lists of `size`; names of the bad ones go to `skipped`, or the first is an error.

  Those before it come first.  Of an image only what is needed of it stays in memory.
  """

  def load(index: int, file: Path) -> _Image:
    image = decoding.open_file(file, max_pixels)
    own = image.size[::-1]
    example = picture_example(image, spec, str(file), spec.view(own))
    return _Image(index, own, example, fitted(image))

  chunk = []
  for index, file in enumerate(files):
    try:
      chunk.append(load(index, file))
    except ValueError as error:
      if not (skip_bad_images and isinstance(error, decoding.BadImageError)):
        if chunk:
          yield chunk
        raise
      skipped.append(str(file))
      logging.warning("Skipped bad image (%d so far): %s", len(skipped), error)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


def _summary(labels: Sequence[str]) -> str:
  """'2 person, 1 dog', most frequent first."""
  ranked = collections.Counter(labels).most_common()
  return ", ".join(f"{count} {label}" for label, count in ranked) or "nothing found"


def _stop(number: int, frame: Any) -> None:
  raise SystemExit(128 + number)


def main(given: flags.FlagValues) -> None:
  config = given.config
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, _stop)
  try:
    files = find_images(given.images)
    classes = None if given.classes is None else parse_names(given.classes)
    names, embeddings = class_vocabulary(
      config, classes, given.class_embeddings, given.clip, given.template
    )
    if given.base is not None:
      base = parse_names(given.base)
    else:
      source = training_source(config)
      base = None if source is None else source.base
    detector, spec = Detector.restore(config, given.checkpoint), detector_specs(config)["eval"]
    wanted = base, given.min_score, config.skip_bad_images, given.max_pixels
    results = predict(detector, spec, files, names, embeddings, given.output, *wanted)
  except (ValueError, OSError) as error:
    sys.exit(f"{error}")
  found, skipped = len(results["detections"]), len(results["skipped"])
  print(f"{found} boxes of {len(names)} classes; {skipped} images skipped: {given.output}")


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("checkpoint", None, "Workdir of the detector's run.")
  flags.DEFINE_string("images", None, "An image, a folder, or a pattern; ** goes into subfolders.")
  flags.DEFINE_string("output", None, "Folder for the pictures and the JSON.")
  flags.DEFINE_string(
    "classes", None, "Class names separated by commas, or @FILE with one per line."
  )
  flags.DEFINE_string("class_embeddings", None, ".npz or .npy to look names up.")
  flags.DEFINE_string("clip", None, "CLIP run or weights to embed the class names.")
  flags.DEFINE_string("template", class_embeddings_lib.TEMPLATE, "Prompt for --clip.")
  flags.DEFINE_string("base", None, "Classes that were trained on, as --classes.")
  flags.DEFINE_float(
    "min_score", 0.3, "Leaves out boxes below it (as model.test.score_threshold does before).", 0, 1
  )
  commands.define_skip_flag()
  flags.DEFINE_integer(
    "max_pixels", decoding.MAX_PIXELS, "Larger images are bad ones.", lower_bound=1
  )
  flags.mark_flags_as_required(["config", "checkpoint", "images", "output"])


if __name__ == "__main__":
  commands.run(main, define_flags)
