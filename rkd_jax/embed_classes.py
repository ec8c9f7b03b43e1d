"""Makes a file of class embeddings: the rows of the zero-shot classifier, with their names.

  python -m rkd_jax.embed_classes --clip=ViT-B-32.pt --names='cat, red kite' --output=F.npz
  python -m rkd_jax.embed_classes --clip=CLIP_WORKDIR --annotations=coco.json --output=F.npy
  python -m rkd_jax.embed_classes --clip=ViT-B-32.pt --annotations=lvis_v1_train.json \\
    --ensemble=vild --synonyms --spaces --normalize --output=F.npz
  python -m rkd_jax.embed_classes --embeddings=F.npy --annotations=coco.json --output=F.npz

Names come from the command line, from a file with one per line (--names=@FILE), or from the
categories of a COCO or LVIS JSON in the order of their ids (LVIS' category-info files will do).
Names and templates are stored beside the matrix: in the .npz, or in F.json beside F.npy.  An .npz
also says which CLIP embedded them, by its place from the file's folder where it lies in that.

Rows are not normalised by default, as in the matrices that the RKD code ships: the detector's
classifier divides by the norm, so detections are the same, and a file can be compared with theirs.
--ensemble, several --template and --synonyms average the unit vectors of all texts of a class.
The prompts of --ensemble=vild are those of ViLD's published code ("This is a photo of an apple in
the scene."), which also reads '_' as a space and normalises rows: give --spaces and --normalize.

With --embeddings nothing is embedded: the rows of a published matrix get their names, so that
prediction can look them up.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rkd_jax.files import json_checks as checks
from rkd_jax.files import storage
from rkd_jax.files.terminal import print_any_name
from rkd_jax.frozen.clip import load_clip
from rkd_jax.records import class_names as category_names
from rkd_jax.vocabulary import class_embeddings, prompts


def class_names(names: str | None, annotations_path: str | None) -> tuple[str, ...]:
  """Names from the command line or from a COCO or LVIS JSON.

  Raises ValueError: both or neither are given, there is no name, or one occurs twice.
  """
  if (names is None) == (annotations_path is None):
    raise ValueError("give the class names with either --names or --annotations.")
  if annotations_path is not None:
    return category_names.load_class_names(annotations_path)
  result = category_names.parse_names(names)
  category_names.check_chosen(result, "--names")
  return result


def class_synonyms(
  names: Sequence[str], synonyms_path: str, annotations_path: str | None
) -> tuple[tuple[str, ...], ...]:
  """For every class the texts that stand for it: a JSON list with a list of texts per class.

  Where `synonyms_path` is '', the 'synonyms' of the categories in LVIS' annotations.
  Raises ValueError: neither is given, or the file does not have texts for every class.
  """
  if not synonyms_path:
    if annotations_path is None:
      raise ValueError("--synonyms needs a file (--synonyms=F.json), or LVIS' --annotations.")
    return category_names.load_synonyms(annotations_path)
  content = checks.read_json(synonyms_path)
  if not isinstance(content, list) or len(content) != len(names):
    raise ValueError(f"{synonyms_path}: expected a list with {len(names)} lists, one per class.")
  return tuple(
    checks.texts(row, f"{synonyms_path}: entry {number} ({name})")
    for number, (name, row) in enumerate(zip(names, content))
  )


def make(
  names: tuple[str, ...], templates: tuple[str, ...], args: argparse.Namespace
) -> Float[np.ndarray, "c d"]:
  """Embeddings of the names by a CLIP, or those of a file that has a row for each.

  Raises ValueError: both or neither are given, or a problem with either.
  """
  if (args.clip is None) == (args.embeddings is None):
    raise ValueError("give either --clip, to embed the names, or --embeddings, to name its rows.")
  if args.embeddings is not None:
    stored = class_embeddings.load(args.embeddings, names)
    return class_embeddings.select(stored, names, args.embeddings)
  texts = [(name,) for name in names]
  if args.synonyms is not None:
    texts = class_synonyms(names, args.synonyms, args.annotations)
  if args.spaces:
    texts = [tuple(text.replace("_", " ") for text in row) for row in texts]
  clip = load_clip(args.clip, args.activation)
  return class_embeddings.embed_classes(clip, names, templates, texts, args.normalize)


def _place_of_clip(clip: str | None, output: str) -> str | None:
  """What a file of class embeddings calls the CLIP that they are of; None without one."""
  if clip is None or storage.is_remote(clip) or storage.is_remote(output):
    return clip
  place, folder = os.path.abspath(clip), os.path.dirname(os.path.abspath(output))
  # A folder that holds both may move.
  return os.path.relpath(place, folder) if os.path.commonpath([place, folder]) == folder else place


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--clip", help="workdir of a CLIP run, or a file of published weights")
  parser.add_argument(
    "--activation", choices=("quick_gelu", "gelu"), help="of published weights; see frozen/clip.py"
  )
  parser.add_argument("--embeddings", help=".npy with a row per class, instead of --clip")
  parser.add_argument("--names", help="separated by commas, or @file with one per line")
  parser.add_argument("--annotations", help="COCO or LVIS JSON with 'categories', or their list")
  prompt = parser.add_mutually_exclusive_group()
  prompt.add_argument(
    "--template",
    action="append",
    help=f"prompt, with {{}} for the name, {prompts.SINGLE!r} by default; the mean of several",
  )
  prompt.add_argument(
    "--ensemble", choices=tuple(prompts.ENSEMBLES), help="average over a published list of prompts"
  )
  parser.add_argument(
    "--synonyms",
    nargs="?",
    const="",
    help="average over names: JSON list of lists, without a file the 'synonyms' of --annotations",
  )
  parser.add_argument("--spaces", action="store_true", help="read '_' in names as a space")
  parser.add_argument("--normalize", action="store_true", help="make every row a unit vector")
  parser.add_argument("--output", required=True, help=".npz or .npy to write")
  args = parser.parse_args(arguments)
  print_any_name()
  try:
    names = class_names(args.names, args.annotations)
    own = args.template or (prompts.SINGLE,)
    templates = prompts.ENSEMBLES[args.ensemble] if args.ensemble else tuple(own)
    rows = make(names, templates, args)
    clip = _place_of_clip(args.clip, args.output)
    class_embeddings.save(args.output, names, templates, rows, clip)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  print(f"{args.output}: {len(names)} classes, {rows.shape[1]} dimensions")


if __name__ == "__main__":
  main()
