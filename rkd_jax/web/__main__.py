"""A page and an endpoint on which runs look for what somebody types.

  rkd-jax web RUN --clip=ViT-B-32.pt
  rkd-jax web RUN RUN2 --port=8000

RUN is as for `rkd-jax predict`.  Of two runs, whose results stand side by side, both get the flags.
docs/web.md says what the endpoint takes and gives, and what is limited.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.folder import load
from rkd_jax.files import storage
from rkd_jax.inputs.plan import place
from rkd_jax.records import decoding
from rkd_jax.records.sources import open_source

_MOST_EXAMPLES = 8


def examples_of(detector: OpenVocabularyDetector, folder: Path) -> list[Path]:
  """Files in `folder` with the first images that the run is validated on, if they are here."""
  root, name, split = place(detector.config.data, "eval")
  if not (storage.path(root) / name).is_dir():
    return []
  source, files = open_source(root, name, split), []
  for number in range(min(len(source), _MOST_EXAMPLES)):
    record = source[number]
    files.append(folder / f"{number}_{Path(record.filename).name}")
    files[-1].write_bytes(record.image)
  return files


def main(given: flags.FlagValues, arguments: Sequence[str]) -> None:
  try:
    from rkd_jax.web.look import Looker
    from rkd_jax.web.server import is_loopback, serve
  except ImportError as error:
    sys.exit(f"The page needs Gradio ({error}): pip install 'rkd_jax[web]'")
  if not 1 <= len(arguments) <= 2:
    sys.exit("Say which run, or which two: rkd-jax web RUN [RUN2]")
  if not is_loopback(given.host):
    print(
      f"Warning: everybody who reaches {given.host} can use this page, and there is no password.",
      file=sys.stderr,
    )
  try:
    detectors = {
      run: load(
        run,
        config=given.config,
        clip=given.clip,
        class_embeddings=given.class_embeddings,
        base=given.base,
      )
      for run in arguments
    }
    for detector in detectors.values():
      if detector.words.has_clip:
        detector.words.clip()  # one that is not there is said now, not to a visitor
    looker = Looker(detectors, given.max_pixels, given.max_megabytes)
    examples = functools.partial(examples_of, detectors[arguments[0]])
    serve(looker, given.host, given.port, examples)
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f"{error}")


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_string("host", "127.0.0.1", "Address; 0.0.0.0 is all of this machine.")
  flags.DEFINE_integer("port", 7860, "Port; 0 takes a free one.", lower_bound=0, upper_bound=65535)
  flags.DEFINE_string("clip", None, "CLIP run or weights that embed the words.")
  flags.DEFINE_string("class_embeddings", None, "The detector's own vocabulary, .npz or .npy.")
  flags.DEFINE_string("base", None, "Classes that were trained on, separated by commas.")
  flags.DEFINE_integer(
    "max_pixels", decoding.MAX_PIXELS, "Larger images are refused.", lower_bound=1
  )
  flags.DEFINE_float("max_megabytes", 25.0, "Larger files are refused.", lower_bound=0.001)


if __name__ == "__main__":
  commands.run(main, define_flags, with_arguments=True)
