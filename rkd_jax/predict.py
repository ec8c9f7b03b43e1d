"""Draws what a detector finds on any images, for any class names.

  python -m rkd_jax.predict --config=CONFIG.py --checkpoint=WORKDIR --images='FOLDER/*.jpg' \\
    --classes='person, red kite' --clip=CLIP_WORKDIR --output=DIR

Each class name needs a text embedding.  It comes from the text tower of a CLIP run (--clip), or
is looked up by name in a file of `rkd_jax.embed_classes` (--class_embeddings; by default the
file that the config names).  Without --classes every class of that file is looked for.

DIR gets a picture (PNG) per image and `predictions.json`, in the manner of COCO results but with
the boxes as [x1, y1, x2, y2]:

  {"classes": [name, ...], "images": [{"id", "file_name", "picture", "height", "width"}, ...],
   "detections": [{"image_id", "category_id", "category", "bbox_xyxy", "score"}, ...],
   "skipped": [file name, ...]}

A detector with a mask head draws its masks, too, and adds "segmentation" to each detection:
COCO's compressed run lengths {"size": [height, width], "counts"}.

Boxes and masks are in pixels of the upright image, `category_id` is the 0-based place in "classes".
Names that are not among the base classes (of --base, or else of the config's data set, if it is
built here) are drawn in the colour of novel classes.
"""

import collections
import dataclasses
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging
from jaxtyping import Float
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.files import storage
from rkd_jax.frozen.detector import Detector, encode_masks
from rkd_jax.inputs.examples import BatchSpec, collate, picture_example
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.pictures.draw import Picture, draw_detections, png_bytes
from rkd_jax.records import decoding
from rkd_jax.records.class_names import parse_names
from rkd_jax.vocabulary import class_embeddings as class_embeddings_lib
from rkd_jax.vocabulary.vocabulary import class_vocabulary, training_source

RESULTS_FILE = "predictions.json"


def find_images(pattern: str) -> list[Path]:
  """Files that match a pattern, sorted.

  Raises:
    ValueError: there is none.
  """
  found = glob.glob(os.path.expanduser(pattern), recursive=True)
  files = sorted(path for path in map(Path, found) if path.is_file())
  if not files:
    raise ValueError(
      f"--images={pattern!r} matches no file. Check the folder, and quote the pattern: "
      "--images='FOLDER/*.jpg'."
    )
  return files


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
) -> dict[str, Any]:
  """Detects, draws, writes the pictures and the JSON of the module's docstring, and returns it.

  Args:
    detector: with its weights.
    spec: how images are resized and batched: the 'eval' one of `detector_specs`.
    files: images.
    names, embeddings: classes and their text embeddings.
    output: folder; made where it is not there.
    base: classes that were trained on; others are drawn as novel. None draws all as base.
    min_score: detections below it are left out.
    skip_bad_images: leave out images that cannot be decoded, with a counted warning.

  Raises:
    ValueError: an image that cannot be decoded, or none that can; a picture that would
      replace an image.
  """
  pictures = _picture_files(files, Path(output))
  results = {"classes": list(names), "images": [], "detections": [], "skipped": []}
  readable = _decoded(files, skip_bad_images, results["skipped"])
  size = min(spec.batch_size, len(files))
  while chunk := [entry for _, entry in zip(range(size), readable)]:
    examples = [picture_example(image, spec, str(files[index])) for index, image in chunk]
    # The last batch is filled with copies: one compiled shape for all.
    examples += [dataclasses.replace(examples[-1], valid=np.array(False))] * (size - len(examples))
    found = detector.detect(collate(examples), embeddings)
    for row, (index, image) in enumerate(chunk):
      keep = found.valid[row] & (found.scores[row] >= min_score)
      boxes, scores, classes = (a[row][keep] for a in (found.boxes, found.scores, found.classes))
      labels = [names[number] for number in classes]
      novel = [base is not None and label not in base for label in labels]
      segmentations = None
      if found.masks is not None:
        segmentations = encode_masks(found.masks[row][keep], boxes, *image.shape[:2])
      picture = draw_detections(image, boxes, scores, labels, novel, segmentations=segmentations)
      pictures[index].parent.mkdir(parents=True, exist_ok=True)
      pictures[index].write_bytes(png_bytes(picture))
      picture_name = str(pictures[index].relative_to(output))
      entry = {"id": index, "file_name": str(files[index]), "picture": picture_name}
      results["images"].append({**entry, "height": image.shape[0], "width": image.shape[1]})
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
      print(f"[{index + 1}/{len(files)}] {files[index]}: {_summary(labels)}", flush=True)
  if not results["images"]:
    raise ValueError(f"None of the {len(files)} images can be decoded.")
  storage.write(Path(output) / RESULTS_FILE, json.dumps(results, indent=1))
  return results


def _picture_files(files: Sequence[Path], output: Path) -> list[Path]:
  """A PNG per image under `output`, in the same subfolders; no two alike, and no image itself."""
  files = [file.resolve() for file in files]
  root = os.path.commonpath([file.parent for file in files])
  relative = [file.relative_to(root) for file in files]
  pictures = [output / file.with_suffix(".png") for file in relative]
  if len(set(pictures)) < len(pictures):  # a.jpg and a.png
    pictures = [output / f"{file}.png" for file in relative]
  for picture in pictures:
    if picture.resolve() in files:
      raise ValueError(f"The picture {picture} would replace an image: give another --output.")
  return pictures


def _decoded(
  files: Sequence[Path], skip_bad_images: bool, skipped: list[str]
) -> Iterator[tuple[int, Picture]]:
  """(index, image) of the files that can be decoded; names of the others go to `skipped`."""
  for index, file in enumerate(files):
    try:
      yield index, np.asarray(decoding.open_image(file.read_bytes(), str(file)))
    except decoding.BadImageError as error:
      if not skip_bad_images:
        raise
      skipped.append(str(file))
      logging.warning("Skipped bad image (%d so far): %s", len(skipped), error)


def _summary(labels: Sequence[str]) -> str:
  """'2 person, 1 dog', most frequent first."""
  ranked = collections.Counter(labels).most_common()
  return ", ".join(f"{count} {label}" for label, count in ranked) or "nothing found"


def main(given: flags.FlagValues) -> None:
  config = given.config
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
    detector, spec = Detector(config, given.checkpoint), detector_specs(config)["eval"]
    skip = given.skip_bad_images or config.skip_bad_images
    results = predict(
      detector, spec, files, names, embeddings, given.output, base, given.min_score, skip
    )
  except (ValueError, OSError) as error:
    sys.exit(f"{error}")
  found, skipped = len(results["detections"]), len(results["skipped"])
  print(f"{found} boxes of {len(names)} classes; {skipped} images skipped: {given.output}")


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("checkpoint", None, "Workdir of the detector's run.")
  flags.DEFINE_string("images", None, "Pattern of image files; ** goes into subfolders.")
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
  flags.DEFINE_bool("skip_bad_images", False, "Leave out unreadable images with a warning.")
  flags.mark_flags_as_required(["config", "checkpoint", "images", "output"])


if __name__ == "__main__":
  commands.run(main, define_flags)
