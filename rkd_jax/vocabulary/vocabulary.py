"""From class names to the rows of the zero-shot classifier."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
from jaxtyping import Float

from rkd_jax.files import storage
from rkd_jax.frozen.clip import FrozenClip
from rkd_jax.inputs.plan import place, pseudo_classes
from rkd_jax.records.class_names import clean_name
from rkd_jax.records.sources import Source, open_source
from rkd_jax.structures import Vocabulary
from rkd_jax.vocabulary import class_embeddings as class_embeddings_lib


def load_vocabulary(config: ml_collections.ConfigDict, source: Source) -> Vocabulary:
  """The vocabulary of a data set's classes, with the rows of `config.class_embeddings`.

  Raises ValueError: no such file, a class without a row, or another width than the model's.
  """
  base = set(source.base)
  return Vocabulary(
    embeddings=_source_rows(config, config.class_embeddings, "class_embeddings", source),
    has_boxes=np.array([name in base for name in source.class_names]),
    image_counts=_image_counts(config.image_counts, source),
  )


def training_vocabulary(
  config: ml_collections.ConfigDict, sources: Mapping[str, Source]
) -> Vocabulary:
  """The vocabulary of the box steps, with that of the image steps where it is another.

  Image steps have classes of their own if `data.image.class_embeddings` says so (the strict
  setting); else their data set must have the classes of the other.
  Raises ValueError: as `load_vocabulary`, or the classes of the two data sets differ.
  """
  main = sources["box"] if "box" in sources else next(iter(sources.values()))
  vocabulary = load_vocabulary(config, main)
  if "box" in sources and config.data.box.get("pseudo_labels", 0):
    of_pseudo_labels = pseudo_classes(main, config.data.box.pseudo_label_score)
    named = np.isin(np.arange(len(main.class_names)), list(of_pseudo_labels))
    vocabulary = dataclasses.replace(vocabulary, has_pseudo_labels=named & ~vocabulary.has_boxes)
  if "image" not in sources:
    return vocabulary
  if path := config.data.image.get("class_embeddings"):
    rows = _source_rows(config, path, "data.image.class_embeddings", sources["image"])
    return dataclasses.replace(vocabulary, image_embeddings=rows)
  _check_same_classes(main, sources["image"])
  return vocabulary


def _check_same_classes(first: Source, second: Source) -> None:
  pairs = itertools.zip_longest(first.class_names, second.class_names)
  for number, (a, b) in enumerate(pairs):
    if a != b:
      in_first, in_second = ("missing" if name is None else repr(name) for name in (a, b))
      raise ValueError(
        f"{first.name} and {second.name} have different classes: class {number} is "
        f"{in_first} in the one and {in_second} in the other "
        f"({len(first.class_names)} and {len(second.class_names)} classes). Build them from the "
        "same list of classes, or give the image steps embeddings of their own classes: "
        "data.image.class_embeddings."
      )


def _image_counts(path: str, source: Source) -> np.ndarray | None:
  """Number of training images per class: from the file, or else what the data set says of them."""
  if not path:
    counts = getattr(source, "image_counts", None)
    return None if counts is None else np.array(counts, np.float32)
  try:
    entries = json.loads(storage.path(path).read_text())
    counts = {clean_name(entry["name"]): float(entry["image_count"]) for entry in entries}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"image_counts: {path!r} is not a JSON list of objects with name and image_count "
      f"({type(error).__name__}: {error})."
    ) from error
  names = [clean_name(name) for name in source.class_names]
  missing = [name for name in names if name not in counts]
  if missing:
    raise ValueError(f"image_counts: {path!r} has no entry for {', '.join(missing[:5])}.")
  return np.array([counts[name] for name in names], np.float32)


def check_same_clip(
  config: ml_collections.ConfigDict, source: Source, clip: FrozenClip, what: str = "The CLIP"
) -> None:
  """Raises ValueError for another CLIP than that of the class embeddings, as far as is known."""
  stored = _load(config.class_embeddings, "config.class_embeddings", source.class_names)
  class_embeddings_lib.check_same_clip(stored, clip, what)


def training_source(config: ml_collections.ConfigDict) -> Source | None:
  """The records that the detector was trained on, or None where they are not built here."""
  kinds = config.data.schedule
  folder, name, split = place(config.data, "box" if "box" in kinds else kinds[0])
  if not (storage.path(folder) / name).is_dir():
    return None
  return open_source(folder, name, split)


def _source_rows(
  config: ml_collections.ConfigDict, path: str, key: str, source: Source
) -> Float[np.ndarray, "c e"]:
  """The rows of a data set's classes in a file that the config names under `key`."""
  stored = _load(path, f"config.{key}", source.class_names)
  rows = class_embeddings_lib.select(stored, source.class_names, path)
  return _check_width(config, rows, f"{key} {path}")


def _load(
  path: str, key: str, names: Sequence[str] | None = None
) -> class_embeddings_lib.ClassEmbeddings:
  if not path or not storage.path(path).is_file():
    raise ValueError(
      f"{key}: there is no file {path!r} of class embeddings. Make one with "
      "`python -m rkd_jax.embed_classes`, or give another; a .npy without names is taken to have "
      "the classes of the data set in their order."
    )
  return class_embeddings_lib.load(path, names)


def _check_width(
  config: ml_collections.ConfigDict, rows: Float[np.ndarray, "c e"], where: str
) -> Float[np.ndarray, "c e"]:
  width = config.model.classifier.embedding_dim
  if rows.shape[1] != width:
    raise ValueError(
      f"{where}: class embeddings are {rows.shape[1]} wide, model.classifier.embedding_dim is "
      f"{width}: use those of the CLIP that the detector is trained with, or, for a new run, "
      f"set it to {rows.shape[1]}."
    )
  return rows
