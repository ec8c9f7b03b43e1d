"""TFDS builder of shapes_ovd, the embedded data set: OV-COCO in small, made from a seed.

Splits, after open-vocabulary COCO:

    clip           captioned scenes of 48×48 to train a CLIP on; no boxes
    train_boxes    boxes of base classes only; novel objects are in view, not annotated
    train_images   captions and the labels found in them; no boxes
    tune           boxes of base and novel classes, to choose settings on
    validation     the same; nothing is chosen on it

The config `scenes` holds what can be seen and read; `rkd` is `scenes` without
`clip`, with the frozen teachers' results joined in by image id (required for the
training splits; `tune` and `validation` stay without where there are none).

    python -m rkd_jax.data.shapes_ovd.shapes_ovd --data_dir=DIR --config=scenes [--seed=0 --scale=1]
    python -m rkd_jax.data.shapes_ovd.shapes_ovd --data_dir=DIR --config=rkd --teachers=FOLDER
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from rkd_jax.data import builder as builder_lib
from rkd_jax.data.shapes_ovd import scenes, vocabulary
from rkd_jax.files import storage
from rkd_jax.records import schema, sources
from rkd_jax.records.results import TeacherReader

DEFAULT_SIZES = {
  "clip": 8000,
  "train_boxes": 2400,
  "train_images": 2400,
  "tune": 300,
  "validation": 800,
}
SPLITS_WITH_CAPTIONS = ("clip", "train_images")
SPLITS_WITH_ALL_BOXES = ("tune", "validation")
_IDS_PER_SPLIT = 1_000_000
# Starting worker processes takes as long as rendering some hundred scenes.
_SCENES_WORTH_A_POOL = 600


class ShapesOvd(tfds.core.GeneratorBasedBuilder):
  """Scenes of silhouettes with compositional names; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="scenes", description="Images, boxes and captions."),
    tfds.core.BuilderConfig(name="rkd", description="With regions and pseudo boxes of teachers."),
  ]

  def __init__(
    self,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    teachers: str | os.PathLike | None = None,
    embedding_dim: int = 64,
    workers: int | None = None,
    **kwargs: Any,
  ):
    """Args beside those of every TFDS builder (`data_dir`, `config`, ...):

    Args:
      seed: of the scenes; config `scenes` only.
      sizes: scenes per split; config `scenes` only, default DEFAULT_SIZES.
      teachers: folder written by `rkd_jax.precompute`; config `rkd` only.
      embedding_dim: width D of `regions/clip_embeddings`.
      workers: processes that render, by default one per core.  The result does
        not depend on it.

    Raises:
      ValueError: an unknown split in `sizes` or no scenes for it; `rkd` without `teachers`,
        or without the `scenes` that it extends.
    """
    self._seed = seed
    self._sizes = dict(DEFAULT_SIZES if sizes is None else sizes)
    self._teachers = teachers
    self._embedding_dim = embedding_dim
    self._workers = (os.cpu_count() or 1) if workers is None else workers
    for split, size in self._sizes.items():
      if split not in scenes.SPLITS or size < 1:
        raise ValueError(
          f"sizes: {split!r}: {size} is not a positive number of scenes for one of the splits "
          f"{', '.join(scenes.SPLITS)}"
        )
    kwargs["data_dir"] = storage.build_folder(kwargs["data_dir"])
    super().__init__(file_format="array_record", **kwargs)

  def settings(self) -> dict[str, Any]:
    """What decides the content of the records, as JSON values."""
    if self.builder_config.name == "scenes":
      content = {"seed": self._seed, "sizes": self._sizes, "look": scenes.fingerprint(self._seed)}
    elif self._teachers is None:
      raise ValueError(
        "shapes_ovd/rkd needs teachers=FOLDER, written by: "
        "python -m rkd_jax.precompute --data_dir=DIR --dataset=shapes_ovd/scenes "
        "--splits=train_boxes,train_images --clip=CLIP_RUN --output=FOLDER"
      )
    else:
      readers = {split: self._reader(split) for split in self._rkd_splits()}
      teachers = {split: reader.metadata for split, reader in readers.items() if reader is not None}
      content = {"scenes": self._scenes_settings(), "teachers": teachers}
    return {**content, "embedding_dim": self._embedding_dim}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=schema.features(vocabulary.CLASS_NAMES, self._embedding_dim),
      metadata=schema.metadata(
        vocabulary.CLASS_NAMES,
        vocabulary.BASE,
        vocabulary.NOVEL,
        SPLITS_WITH_ALL_BOXES,
        self._embedding_dim,
        self.settings(),
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    if self.builder_config.name == "rkd":
      return {split: self._joined_examples(split) for split in self._rkd_splits()}
    # One pool renders all splits in order; each split takes its share of the stream.
    tasks = [(self._seed, split, i) for split, size in self._sizes.items() for i in range(size)]
    stream = _render(tasks, self._workers)
    return {split: self._generate_examples(split, stream) for split in self._sizes}

  def _generate_examples(
    self, split: str, stream: Iterator[scenes.EncodedScene]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    first_id = (1 + scenes.SPLITS.index(split)) * _IDS_PER_SPLIT
    for index, scene in enumerate(itertools.islice(stream, self._sizes[split])):
      yield index, _example(split, index, first_id + index, scene, self._embedding_dim)

  def _joined_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    source = self._scenes(split)
    teacher = self._reader(split)
    for index in tqdm(range(len(source)), f"joining {split}", unit=" records"):
      record = source[index]
      yield (
        index,
        schema.encode_record(
          image=record.image,
          image_id=record.image_id,
          filename=record.filename,
          height=record.height,
          width=record.width,
          boxes=record.boxes,
          classes=record.classes,
          object_ids=record.object_ids,
          areas=record.areas,
          is_crowd=record.is_crowd,
          captions=record.captions,
          labels=record.labels,
          teacher=None if teacher is None else teacher[record.image_id],
          embedding_dim=self._embedding_dim,
        ),
      )

  def _scenes(self, split: str) -> sources.Source:
    return sources.open_source(storage.origin(self.data_dir_root), f"{self.name}/scenes", split)

  def _rkd_splits(self) -> list[str]:
    return [split for split in self._scenes_settings()["sizes"] if split != "clip"]

  def _scenes_settings(self) -> dict[str, Any]:
    root = storage.path(storage.origin(self.data_dir_root))
    try:
      return builder_lib.read_settings(root / self.name / "scenes" / str(self.version))
    except FileNotFoundError as error:
      raise ValueError(
        f"{error.filename or root}: no such file. Build the scenes first: "
        "python -m rkd_jax.data.shapes_ovd.shapes_ovd --data_dir=DIR --config=scenes"
      ) from error

  def _reader(self, split: str) -> TeacherReader | None:
    """The teachers' results; None where an evaluation split has none."""
    if split in SPLITS_WITH_ALL_BOXES and not (storage.path(self._teachers) / split).exists():
      return None
    return TeacherReader(self._teachers, split, self._embedding_dim)


def sizes_at(scale: float) -> dict[str, int]:
  """DEFAULT_SIZES times `scale`, at least 4 scenes each."""
  return {split: max(round(size * scale), 4) for split, size in DEFAULT_SIZES.items()}


def build(data_dir: str | os.PathLike, config: str = "scenes", **settings: Any) -> ShapesOvd:
  """Builds a config under `data_dir`, unless it is there with the same settings.

  Args:
    data_dir: root folder; the records go to data_dir/shapes_ovd/<config>/<version>.
    config: "scenes" or "rkd"; "rkd" needs "scenes" built before.
    **settings: arguments of `ShapesOvd`.

  Raises:
    ValueError: it is there with other settings, or `scenes` or the teachers' results are missing.
  """
  return builder_lib.prepare(ShapesOvd(data_dir=data_dir, config=config, **settings))


def _render(tasks: list[tuple[int, str, int]], workers: int) -> Iterator[scenes.EncodedScene]:
  """The scenes of the tasks in their order, rendered by a pool if that pays."""
  with contextlib.ExitStack() as stack:
    if workers < 2 or len(tasks) < _SCENES_WORTH_A_POOL:
      rendered = map(scenes.encoded_scene, tasks)
    else:
      # Not forked: the parent may run JAX, whose threads do not survive a fork.
      pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
      rendered = pool.imap(scenes.encoded_scene, tasks, chunksize=32)
    bar = stack.enter_context(tqdm(total=len(tasks), desc="rendering shapes_ovd", unit=" scenes"))
    for scene in rendered:
      bar.update()
      yield scene


def _example(
  split: str, index: int, image_id: int, scene: scenes.EncodedScene, embedding_dim: int
) -> dict[str, Any]:
  """The record of a scene with what may be known about it in this split."""
  names = [vocabulary.CLASS_NAMES[c] for c in scene.classes]
  if split == "train_boxes":
    shown = [name in vocabulary.BASE for name in names]
  elif split in SPLITS_WITH_ALL_BOXES:
    shown = [name not in vocabulary.OTHER for name in names]
  else:
    shown = [False] * len(names)
  captions = scene.captions if split in SPLITS_WITH_CAPTIONS else ()
  return schema.encode_record(
    image=scene.jpeg,
    image_id=image_id,
    filename=f"{split}_{index:06d}.jpg",
    height=scene.size,
    width=scene.size,
    boxes=scene.boxes[shown],
    classes=scene.classes[shown],
    areas=scene.areas[shown],
    captions=captions,
    labels=[c for c, name in enumerate(vocabulary.CLASS_NAMES) if name in " ".join(captions)],
    embedding_dim=embedding_dim,
  )


def main():
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--data_dir", required=True, help="root folder of built data sets, perhaps gs://..."
  )
  parser.add_argument("--config", choices=("scenes", "rkd"), default="scenes")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scale", type=float, default=1.0, help="times the default sizes")
  parser.add_argument("--teachers", help="folder written by rkd_jax.precompute (config rkd)")
  parser.add_argument("--embedding_dim", type=int, default=64)
  parser.add_argument("--workers", type=int, help="processes that render, by default one per CPU")
  args = parser.parse_args()
  settings = {"embedding_dim": args.embedding_dim, "workers": args.workers}
  if args.config == "scenes":
    settings |= {"seed": args.seed, "sizes": sizes_at(args.scale)}
  else:
    settings |= {"teachers": args.teachers}
  try:
    builder = build(args.data_dir, args.config, **settings)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  for name, split in builder.info.splits.items():
    print(f"{name}: {split.num_examples} records")
  print(builder_lib.place(builder))


if __name__ == "__main__":
  main()
