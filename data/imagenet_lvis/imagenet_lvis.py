"""TFDS builder of ImageNet-LVIS: the images of ImageNet-21K whose synset is a class of LVIS v1.

    python -m rkd_jax.data.imagenet_lvis.imagenet_lvis --data_dir=DIR --lvis=FOLDER \\
      --imagenet=FOLDER --wordnet=FILE [--limit=N] \\
      [--dry_run] [--skip_bad_images] [--workers=N | --beam='--runner=...']

The LVIS folder holds lvis_v1_val.json, whose categories name their synsets ('dog.n.01'); the
ImageNet folder holds for each synset a folder nXXXXXXXX or an archive nXXXXXXXX.tar, which is read
in place; the file is index.noun of WordNet 3.0 (folder `dict` of its release), which says which
synset is the nth sense of a lemma.  Classes whose synset WordNet or the ImageNet folder lack have
no images; they are counted.

Split `train` has the classes of lvis_ovd in the same order, as base and novel ones, and the images
with the class of their synset as image-level label.  There are no boxes: ILS trains on pseudo
boxes (`data.image.name`), which `rkd_jax.precompute --pseudo_box_threshold=0` makes
(`data.image.teachers`).  Image ids are
the number of the synset * 10**7 + the number in the file name: n01440764_10026.JPEG is
14407640010026.
"""

import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.imagenet_lvis import synsets
from rkd_jax.data.imagenet_lvis.wordnet import load_senses, offset_of
from rkd_jax.data.lvis_ovd.lvis_ovd import VALIDATION_JSON, load_synsets, of_categories

# Classes of LVIS with images in the ImageNet-21K of autumn 2011.
OFFICIAL = 997


class ImagenetLvis(builder.RecordBuilder):
  """Images of ImageNet-21K with the classes of LVIS v1; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self,
    *,
    lvis: str | os.PathLike,
    imagenet: str | os.PathLike,
    wordnet: str | os.PathLike,
    **kwargs: Any,
  ):
    """Reads the JSON and WordNet, and lists the images; `builder.prepare` reads them.

    Raises ValueError: a problem with the files, or ImageNet has no images of these classes.
    """
    annotations = Path(lvis) / VALIDATION_JSON
    categories = load_synsets(annotations)
    classes = of_categories(categories, annotations)
    names = [entry["synset"] for entry in categories]
    labels, not_in_wordnet = _labels(names, wordnet, annotations)
    found = synsets.find(imagenet)
    used = [found[offset] for offset in labels if offset in found]
    split = synsets.make_split(imagenet, [own["name"] for own in categories], used, labels)
    if not len(split):
      raise ValueError(f"{imagenet} has no images of the {len(labels)} synsets of {annotations}.")
    absent = [own[0] for offset, own in labels.items() if offset not in found]
    with_images = sum(map(bool, split.counts.values()))
    super().__init__(
      splits={"train": split},
      settings={
        VALIDATION_JSON: builder.checksum(annotations),
        "wordnet": builder.checksum(wordnet),
        "images": split.checksum(),
      },
      totals=[
        *builder.compared({str(imagenet): {"synsets with images": (with_images, OFFICIAL)}}),
        _missing("whose synset is not in WordNet", not_in_wordnet, names),
        _missing("whose synset is not in ImageNet", absent, names),
      ],
      **classes,
      **kwargs,
    )


def _labels(
  names: list[str], path: str | os.PathLike, annotations: Path
) -> tuple[dict[int, list[int]], list[int]]:
  """Synset -> classes, in the order of the classes, and the classes that WordNet lacks."""
  senses = load_senses(path)
  labels, missing = {}, []
  for number, name in enumerate(names):
    offset = offset_of(name, senses, annotations)
    if offset is None:
      missing.append(number)
    else:
      labels.setdefault(offset, []).append(number)
  return labels, missing


def _missing(what: str, numbers: list[int], names: list[str]) -> str:
  shown = ", ".join(names[number] for number in numbers[:10])
  more = ", ..." if len(numbers) > 10 else ""
  return f"{len(numbers)} classes {what}" + (f": {shown}{more}" if numbers else "")


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__, beam=True)
  parser.add_argument("--lvis", required=True, help="folder of lvis_v1_val.json")
  parser.add_argument("--imagenet", required=True, help="folder of nXXXXXXXX/ or nXXXXXXXX.tar")
  parser.add_argument("--wordnet", required=True, help="dict/index.noun of WordNet 3.0")
  builder.run(parser, ImagenetLvis)


if __name__ == "__main__":
  main()
