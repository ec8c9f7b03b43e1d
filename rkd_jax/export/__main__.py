"""Writes a detector so that it runs without this package: for JAX alone, ONNX or TensorFlow.

  rkd-jax export RUN --format=onnx --output=DIR
  rkd-jax export RUN --format=jax,onnx,savedmodel --output=DIR --benchmark=photo.jpg

RUN is what `rkd-jax predict` takes: the folder of a run, a folder of `save_pretrained`,
hf://OWNER/NAME, or a file of detectron2's with --config.  DIR gets the model, a program and a
README that say how to use it; of several formats each has a folder in DIR.  See docs/export.md.

The words come along as class_embeddings.npz: those of --classes, embedded by --clip, or else the
detector's own.  The model takes others, too, up to --max_words.

--benchmark=IMAGE then prints size and latency of each format beside this package's own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.detect.folder import load
from rkd_jax.export.formats import KINDS, export
from rkd_jax.export.measure import measure, table
from rkd_jax.records.class_names import check_chosen, parse_names


def main(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  try:
    if len(arguments) != 1:
      raise ValueError("Say which detector: rkd-jax export RUN --format=onnx --output=DIR")
    kinds = dict.fromkeys(given.format)
    for kind in kinds:
      if kind not in KINDS:
        raise ValueError(f"--format={kind}: there is no such format; there are {', '.join(KINDS)}.")
    if not given.output:
      raise ValueError("Say where it is to be: --output=DIR")
    if given.benchmark and not Path(given.benchmark).is_file():
      raise ValueError(f"--benchmark={given.benchmark}: there is no such image.")
    chosen = None if given.classes is None else parse_names(given.classes)
    if chosen is not None:
      check_chosen(chosen, "--classes")
    place, output = arguments[0], Path(given.output)
    detector = load(
      place, config=given.config, clip=given.clip, class_embeddings=given.class_embeddings
    )
    vocabulary = None
    if chosen is not None or given.benchmark:
      vocabulary = detector.vocabulary(chosen, given.template)
    folders = [output / kind if len(kinds) > 1 else output for kind in kinds]
    for kind, folder in zip(kinds, folders):
      export(detector, kind, folder, vocabulary, given.max_words)
      print(f"{folder}: try it with python {folder}/run.py IMAGE", flush=True)
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f"{error}")
  if given.benchmark:
    print(table(measure(detector, vocabulary, folders, given.benchmark)))


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_list("format", ["jax"], f"Formats, separated by commas: {', '.join(KINDS)}.")
  flags.DEFINE_string("output", None, "Folder to write.")
  flags.DEFINE_string("classes", None, "Words separated by commas, or @FILE with one per line.")
  flags.DEFINE_string("clip", None, "CLIP run or weights that embed the words.")
  flags.DEFINE_string("class_embeddings", None, "The detector's own vocabulary, .npz or .npy.")
  flags.DEFINE_string("template", None, "Prompt for CLIP, such as 'a photo of a {}'.")
  flags.DEFINE_integer("max_words", None, "Rows that the model takes.", lower_bound=1)
  flags.DEFINE_string("benchmark", None, "Image to measure all forms on.")


if __name__ == "__main__":
  commands.run(main, define_flags, with_arguments=True)
