"""Makes a file of class embeddings: the rows of the zero-shot classifier, with their names.

  python -m rkd_jax.clip.embed_classes --clip=CLIP_WORKDIR --names='cat, red kite' --output=F.npz
  python -m rkd_jax.clip.embed_classes --clip=CLIP_WORKDIR --annotations=coco.json --output=F.npz
  python -m rkd_jax.clip.embed_classes --embeddings=F.npy --annotations=coco.json --output=F.npz

Names come from the command line, from a file with one per line (--names=@FILE), or from the
categories of a COCO JSON in the order of their ids.  With --embeddings nothing is embedded: the
rows of a published matrix get their names, so that prediction can look them up.
"""

import argparse

import numpy as np
from jaxtyping import Float

from data.coco_json import annotations
from rkd_jax.clip import class_embeddings
from rkd_jax.clip.load import load_clip


def class_names(names: str | None, annotations_path: str | None) -> tuple[str, ...]:
  """Names from the command line or from a COCO JSON.

  Raises:
    ValueError: both or neither are given, there is no name, or one occurs twice.
  """
  if (names is None) == (annotations_path is None):
    raise ValueError("give the class names with either --names or --annotations.")
  if annotations_path is not None:
    return annotations.load_class_names(annotations_path)
  result = annotations.parse_names(names)
  if not result:
    raise ValueError("--names is empty: name at least one class, as in --names='cat, dog'.")
  if twice := sorted({name for name in result if result.count(name) > 1}):
    raise ValueError(f"--names has {', '.join(map(repr, twice))} more than once: keep one.")
  return result


def make(
  names: tuple[str, ...], clip: str | None, embeddings: str | None, template: str
) -> Float[np.ndarray, "c d"]:
  """Embeddings of the names by a CLIP run, or those of a file that has a row for each.

  Raises:
    ValueError: both or neither are given, or a problem with either.
  """
  if (clip is None) == (embeddings is None):
    raise ValueError("give either --clip, to embed the names, or --embeddings, to name its rows.")
  if clip is not None:
    return load_clip(clip).embed_classes(list(names), template)
  return class_embeddings.load(embeddings, names).embeddings


def main():
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--clip", help="workdir of a CLIP run")
  parser.add_argument("--embeddings", help=".npy with a row per class, instead of --clip")
  parser.add_argument("--names", help="separated by commas, or @file with one per line")
  parser.add_argument("--annotations", help="COCO JSON with 'categories'")
  parser.add_argument(
    "--template", default=class_embeddings.TEMPLATE, help="prompt, with {} for the name"
  )
  parser.add_argument("--output", required=True, help=".npz to write")
  args = parser.parse_args()
  try:
    names = class_names(args.names, args.annotations)
    rows = make(names, args.clip, args.embeddings, args.template)
    class_embeddings.save(args.output, names, args.template, rows)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  print(f"{args.output}: {len(names)} classes, {rows.shape[1]} dimensions")


if __name__ == "__main__":
  main()
