"""Finds what words name on any images and videos, and draws it.

  rkd-jax predict RUN IMAGES... --classes='person, red kite' --clip=ViT-B-32.pt
  rkd-jax predict runs/coco/rkd 'photos/*.jpg' street.mp4 --output=DIR

RUN is the folder of a run, a folder of `save_pretrained`, hf://OWNER/NAME, or a file of
detectron2's with --config (see `detect.folder.load`).  IMAGES are files, folders (their files that
are named like images or videos) and patterns, see `files.patterns`.

Each word needs a text embedding.  It comes from a CLIP (--clip; by default the one that the
detector or its class embeddings name), or is looked up by name in the detector's own vocabulary
(--class_embeddings replaces it).  Without --classes that whole vocabulary is looked for.

DIR gets a picture (PNG) per image, in the same subfolders, an MP4 per video, and

  predictions.json   a list of COCO results, for `COCO.loadRes`: {"image_id", "category_id",
                     "category", "bbox" [x, y, width, height], "score", "segmentation"}: all that
                     the detector finds, whatever --min_score is; with --probabilities also
                     "probability", the chance to be right by the run's thresholds.json
  images.json        what the ids mean, for `COCO`: "images" {"id", "file_name", "height", "width",
                     "picture" or "frame"}, "categories", and "complete", "skipped", "min_score"
  predictions.csv    what is drawn, a row per box: file, frame, word, score, x1, y1, x2, y2

With --annotations=COCO.json images and words have the ids that they have there, so that AP can be
computed; otherwise images count from 0 and words from 1.

Names are as Python has them (`os.fsdecode`): bytes of a name that are not UTF-8 are \\udc80 to
\\udcff, and `os.fsencode` gives the name back.  An image that cannot be decoded or is larger than
--max_pixels ends the run, or with --skip_bad_images is left out.  A run that ends early, also by
Ctrl-C or SIGTERM (exit codes 130 and 143), leaves the pictures and the files above of the images
that were done, with "complete": false.  The same command then begins anew.

Boxes and masks are in pixels of the upright image.  Words that are not among the base classes (of
--base, or else of the records that the detector was trained on, if they are there) are drawn with a
star.
"""

import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.detect import outputs, video
from rkd_jax.detect.detector import MIN_SCORE, AnyImage, OpenVocabularyDetector
from rkd_jax.detect.folder import load
from rkd_jax.detect.result import Result
from rkd_jax.evaluation.calibration.thresholds import Thresholds, load_thresholds
from rkd_jax.files import patterns
from rkd_jax.frozen.fusion import kind_of
from rkd_jax.records import decoding
from rkd_jax.records.class_names import check_chosen, parse_names
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings


def find_images(*given: str) -> list[Path]:
  """The images and videos that files, folders or patterns name, each once; see
  `patterns.find_files`.

  Raises:
    ValueError: one of them names none.
    OSError: a folder cannot be read.
  """
  found: dict[Path, None] = {}
  for pattern in given:
    files = patterns.find_files(pattern, (*decoding.SUFFIXES, *video.SUFFIXES))
    if not files:
      raise ValueError(
        f"{pattern!r} matches no file. Check the folder, and quote the pattern: 'FOLDER/*.jpg'."
      )
    found |= dict.fromkeys(files)
  return list(found)


def predict(
  detector: OpenVocabularyDetector,
  files: Sequence[Path],
  vocabulary: ClassEmbeddings,
  output: str | os.PathLike,
  min_score: float | Mapping[str, float] = MIN_SCORE,
  skip_bad_images: bool = False,
  max_pixels: int = decoding.MAX_PIXELS,
  every: int = 1,
  annotations: str | None = None,
  thresholds: Thresholds | None = None,
) -> dict[str, Any]:
  """Detects, draws, writes the files of the module's docstring, and returns images.json's content.

  These are written, of the images that were done, whatever ends the run.

  Args:
    detector, vocabulary: what looks, and what for.
    files: images and videos.
    output: folder; made where it is not there.
    min_score: detections below it, or that of their word, are not drawn.
    skip_bad_images: leave out images that cannot be decoded, with a counted warning.
    max_pixels: of an image; see `decoding.open_image`.
    every: of a video, each so many frames.
    annotations: COCO JSON whose ids images and words are to have.
    thresholds: of the run, that results are to have probabilities.

  Raises:
    ValueError: an image that cannot be decoded, or none that can; a picture that would replace an
      image or another picture; an image or word that the annotations lack.
  """
  written = outputs.Outputs(files, output, vocabulary.names or (), min_score, annotations)
  pictures = [file for file in files if file.suffix.lower() not in video.SUFFIXES]
  bad = functools.partial(_skipped, written) if skip_bad_images else None
  options: dict[str, Any] = {"min_score": 0.0, "max_pixels": max_pixels}

  def look(images: Iterable[AnyImage], **more: Any) -> Iterator[Result]:
    found = detector.stream(images, vocabulary, **options, **more)
    if thresholds is None:
      return found
    return (result.with_probabilities(thresholds.probability) for result in found)

  with written:
    found = look(pictures, on_bad=bad) if pictures else ()
    for result in found:
      print(f"[{written.done + 1}/{len(files)}] {result.name}: {written.add(result)}", flush=True)
    for file in files:
      if file not in pictures:
        frames = video.read(file, every, max_pixels)
        print(f"{file}: {written.add_video(file, frames, look(frames))}", flush=True)
  return written.content


def _skipped(written: outputs.Outputs, name: str, error: decoding.BadImageError) -> None:
  written.content["skipped"].append(name)
  logging.warning("Skipped bad image (%d so far): %s", len(written.content["skipped"]), error)


def _stop(number: int, frame: Any) -> None:
  raise SystemExit(128 + number)


def _thresholds(place: str, fusion: str) -> Thresholds:
  """Those of a run, for scores of the same kind of fusion.

  Raises ValueError: there are none, or of another kind; those of earlier versions do not say it.
  """
  found = load_thresholds(place)
  known = found.content.get("fusion", fusion)
  if known != fusion:
    raise ValueError(
      f"the thresholds of {place} are of scores with model.test.fusion.kind {known!r}, but it is "
      f"{fusion!r} here: predict with the same, or evaluate again with --calibrate."
    )
  return found


def _limits(given: str, place: str, names: Sequence[str], fusion: str) -> float | dict[str, float]:
  """What --min_score says: a number, or one for each word.

  Raises ValueError: neither, or the run has no thresholds for scores of this kind of fusion.
  """
  auto, _, precision = given.partition(":")
  if auto == "auto":
    limits = _thresholds(place, fusion).threshold_for(names, precision or "f1")
    return dict(zip(names, limits.tolist()))
  try:
    value = float(given)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1:
    raise ValueError(f"--min_score is {given}: expected a number from 0 to 1, auto or auto:0.9.")
  return value


def main(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, _stop)
  try:
    if len(arguments) < 2:
      raise ValueError("Say which detector and which images: rkd-jax predict RUN IMAGES...")
    place, *images = arguments
    files = find_images(*images)
    chosen = None if given.classes is None else parse_names(given.classes)
    if chosen is not None:
      check_chosen(chosen, "--classes")
    detector = load(
      place,
      config=given.config,
      clip=given.clip,
      class_embeddings=given.class_embeddings,
      base=given.base,
    )
    vocabulary = detector.vocabulary(chosen, given.template)
    skip = given.skip_bad_images or detector.config.skip_bad_images
    fusion = kind_of(detector.config)
    limits = _limits(given.min_score, place, vocabulary.names or (), fusion)
    thresholds = _thresholds(place, fusion) if given.probabilities else None
    wanted = limits, skip, given.max_pixels, given.every, given.annotations, thresholds
    results = predict(detector, files, vocabulary, given.output, *wanted)
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f"{error}")
  shown = f"{results['drawn']} boxes of {len(vocabulary.names or ())} words"
  print(f"{shown}; {len(results['skipped'])} images skipped: {given.output}")


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("output", "predictions", "Folder for the pictures and the JSON.")
  flags.DEFINE_string("classes", None, "Words separated by commas, or @FILE with one per line.")
  flags.DEFINE_string("clip", None, "CLIP run or weights that embed the words.")
  flags.DEFINE_string("class_embeddings", None, "The detector's own vocabulary, .npz or .npy.")
  flags.DEFINE_string("template", None, "Prompt for CLIP, such as 'a photo of a {}'.")
  flags.DEFINE_string("base", None, "Classes that were trained on, as --classes.")
  flags.DEFINE_string(
    "min_score",
    f"{MIN_SCORE}",
    "Boxes below it are not drawn; auto, or auto:0.9, takes that of each word from the run's "
    "thresholds.json, for the best F1 or a precision (0.5, 0.7, 0.9).",
  )
  flags.DEFINE_bool(
    "probabilities",
    False,
    "predictions.json has the chance of each box to be right, by the run's thresholds.json.",
  )
  flags.DEFINE_string("annotations", None, "COCO JSON with the ids for predictions.json.")
  flags.DEFINE_integer("every", 1, "Of a video, each so many frames.", lower_bound=1)
  commands.define_skip_flag()
  flags.DEFINE_integer(
    "max_pixels", decoding.MAX_PIXELS, "Larger images are bad ones.", lower_bound=1
  )


if __name__ == "__main__":
  commands.run(main, define_flags, with_arguments=True)
