"""TFDS builder of random classes of ImageNet-21K, for ILS that knows no novel class (strict).

    python -m rkd_jax.data.imagenet21k_random.imagenet21k_random --data_dir=DIR --imagenet=FOLDER \\
      --wordnet=FILE (--annotations=lvis_v1_val.json | --names='cat, dog' | --names=@FILE) \\
      [--classes=N] [--seed=0] [--limit=N] [--dry_run] \\
      [--workers=N | --beam='--runner=...']

FOLDER holds a folder nXXXXXXXX or an archive nXXXXXXXX.tar for each synset, FILE is data.noun of
WordNet 3.0 (folder `dict` of its release), which has the lemmas of each synset.  The classes are
drawn from the synsets with images there, by default five times as many as the vocabulary of
--annotations or --names has classes, less all synsets of which a lemma is a name of the vocabulary
(in lower case, '_' as a space, without what stands in brackets: 'bat_(animal)' leaves out every
'bat').  A class is called by the first lemma of its synset; of two synsets with the same one only
that drawn first is taken, since texts cannot tell them apart.

Split `train` has no boxes; the image-level label is the synset.  The records' vocabulary is these
classes alone, in the order of WordNet; `class_names.txt` beside the records lists them.  A strict
run keeps the data set and class embeddings of its box steps, and image steps get these instead:

    python -m rkd_jax.embed_classes --clip=ViT-B-32.pt --names=@class_names.txt --output=F.npz
    python -m rkd_jax.main --config=configs/lvis/rkd_ils.py --workdir=DIR \\
      --config.data.image.name=imagenet21k_random/plain --config.data.image.teachers=FOLDER \\
      --config.data.image.class_embeddings=F.npz

The columns of the classifier are then the random classes in image steps, the base and novel
classes in evaluation, and the projection learns from both.  Pseudo boxes are those that
`rkd_jax.precompute --pseudo_box_threshold=0` wrote to FOLDER; image ids are made as in
data.imagenet_lvis.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.imagenet_lvis import synsets
from rkd_jax.data.imagenet_lvis.wordnet import load_lemmas, wnid
from rkd_jax.records import class_names as category_names

NAMES_FILE = "class_names.txt"
# Drawn classes per class of the vocabulary.
_TIMES = 5


class Imagenet21kRandom(builder.RecordBuilder):
  """Images of random classes of ImageNet-21K; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    *,
    imagenet: str | os.PathLike,
    wordnet: str | os.PathLike,
    vocabulary: Sequence[str],
    classes: int | None = None,
    seed: int = 0,
    **kwargs: Any,
  ):
    """Draws the classes and lists their images; `builder.prepare` reads them.

    `vocabulary` has the names of the classes to detect, none of which is drawn.  The draw depends
    on the seed and on which synsets the folder holds.
    Raises ValueError: a problem with the files, or there are fewer classes.
    """
    found = synsets.find(imagenet)
    lemmas = load_lemmas(wordnet)
    known = {offset: lemmas[offset] for offset in sorted(found) if offset in lemmas}
    taken = {_plain(name) for name in vocabulary}
    usable = {
      offset: found[offset]
      for offset, own in known.items()
      if not taken.intersection(map(_plain, own))
    }
    names = {offset: known[offset][0].replace("_", " ") for offset in usable}
    count = _TIMES * len(vocabulary) if classes is None else classes
    drawn = _draw(usable, names, count, seed, imagenet)
    split = synsets.make_split(
      imagenet,
      [names[offset] for offset in drawn],
      [found[offset] for offset in drawn],
      {offset: (number,) for number, offset in enumerate(drawn)},
    )
    super().__init__(
      splits={"train": split},
      settings={
        "synsets": list(map(wnid, drawn)),
        "wordnet": builder.checksum(wordnet),
        "images": split.checksum(),
      },
      totals=[
        f"{len(drawn)} classes of {len(found)} synsets in {imagenet}: "
        f"{len(found) - len(known)} are not in {wordnet}, {len(known) - len(usable)} have a name "
        "of the vocabulary"
      ],
      **kwargs,
    )

  def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
    names = "".join(f"{name}\n" for name in self.splits["train"].class_names)
    (Path(self.data_dir) / NAMES_FILE).write_text(names, "utf-8")
    super()._download_and_prepare(dl_manager, download_config)


def _plain(name: str) -> str:
  """A name or lemma for comparison."""
  without = re.sub(r"\([^)]*\)", " ", name.lower().replace("_", " "))
  return " ".join(without.split())


def _draw(
  usable: dict[int, synsets.Synset],
  names: dict[int, str],
  count: int,
  seed: int,
  folder: str | os.PathLike,
) -> list[int]:
  """`count` synsets with images and names of their own, in ascending order."""
  if count < 1 or seed < 0:
    raise ValueError(f"classes is {count} and seed {seed}; expected at least 1 and at least 0.")
  drawn = {}
  for offset in np.random.default_rng(seed).permutation(list(usable)).tolist():
    if len(drawn) == count:
      break
    if _plain(names[offset]) not in drawn and next(usable[offset].images(), None) is not None:
      drawn[_plain(names[offset])] = offset
  if len(drawn) < count:
    raise ValueError(
      f"{folder} has images of only {len(drawn)} synsets with a name of their own that is not in "
      f"the vocabulary, {count} are asked for: set --classes, or add synsets."
    )
  return sorted(drawn.values())


def _make(annotations: str | None, names: str | None, **settings: Any) -> Imagenet21kRandom:
  """The builder, with the vocabulary that one of the first two flags names."""
  if annotations is not None:
    vocabulary = category_names.load_class_names(annotations)
  elif not (vocabulary := category_names.parse_names(names)):
    raise ValueError("--names is empty: name at least one class of the vocabulary.")
  return Imagenet21kRandom(vocabulary=vocabulary, **settings)


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__, beam=True)
  parser.add_argument("--imagenet", required=True, help="folder of nXXXXXXXX/ or nXXXXXXXX.tar")
  parser.add_argument("--wordnet", required=True, help="dict/data.noun of WordNet 3.0")
  vocabulary = parser.add_mutually_exclusive_group(required=True)
  vocabulary.add_argument("--annotations", help="COCO or LVIS JSON with the classes to detect")
  vocabulary.add_argument("--names", help="the same separated by commas, or @FILE")
  parser.add_argument("--classes", type=int, help=f"default: {_TIMES} times the vocabulary")
  parser.add_argument("--seed", type=int, default=0)
  builder.run(parser, _make)


if __name__ == "__main__":
  main()
