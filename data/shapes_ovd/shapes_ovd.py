"""TFDS builder of shapes_ovd, the embedded data set: OV-COCO in small, made from a seed.

Splits, after open-vocabulary COCO:

    clip           captioned scenes of 48×48 to train a CLIP on; no boxes
    train_boxes    boxes of base classes only; novel objects are in view, not annotated
    train_images   captions and the labels found in them; no boxes
    tune           boxes of base and novel classes, to choose settings on
    validation     the same; nothing is chosen on it

    python -m rkd_jax.data.shapes_ovd.shapes_ovd --data_dir=DIR [--seed=0 --scale=1]
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
from rkd_jax.data.making import index_row
from rkd_jax.data.shapes_ovd import scenes, vocabulary
from rkd_jax.files import storage
from rkd_jax.records import index as index_lib
from rkd_jax.records import schema

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
  ]

  def __init__(
    self,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    workers: int | None = None,
    **kwargs: Any,
  ):
    """Args beside those of every TFDS builder (`data_dir`, ...):

    Args:
      seed: of the scenes.
      sizes: scenes per split, default DEFAULT_SIZES.
      workers: processes that render, by default one per core.  The result does
        not depend on it.

    Raises:
      ValueError: an unknown split in `sizes` or no scenes for it.
    """
    self._seed = seed
    self._sizes = dict(DEFAULT_SIZES if sizes is None else sizes)
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
    return {"seed": self._seed, "sizes": self._sizes, "look": scenes.fingerprint(self._seed)}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=schema.features(vocabulary.CLASS_NAMES),
      metadata=schema.metadata(
        vocabulary.CLASS_NAMES,
        vocabulary.BASE,
        vocabulary.NOVEL,
        SPLITS_WITH_ALL_BOXES,
        self.settings(),
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    # One pool renders all splits in order; each split takes its share of the stream.
    tasks = [(self._seed, split, i) for split, size in self._sizes.items() for i in range(size)]
    stream = _render(tasks, self._workers)
    return {split: self._generate_examples(split, stream) for split in self._sizes}

  def _generate_examples(
    self, split: str, stream: Iterator[dict[str, Any]]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    first_id = (1 + scenes.SPLITS.index(split)) * _IDS_PER_SPLIT
    rows = []
    for index, scene in enumerate(itertools.islice(stream, self._sizes[split])):
      example = _example(split, index, first_id + index, scene)
      rows.append(index_row(example))
      yield index, example
    index_lib.save(self.data_dir, split, index_lib.make(rows))


def sizes_at(scale: float) -> dict[str, int]:
  """DEFAULT_SIZES times `scale`, at least 4 scenes each."""
  return {split: max(round(size * scale), 4) for split, size in DEFAULT_SIZES.items()}


def build(data_dir: str | os.PathLike, **settings: Any) -> ShapesOvd:
  """Builds the scenes under `data_dir`, unless they are there with the same settings.

  Args:
    data_dir: root folder; the records go to data_dir/shapes_ovd/scenes/<version>.
    **settings: arguments of `ShapesOvd`.

  Raises:
    ValueError: they are there with other settings.
  """
  return builder_lib.prepare(ShapesOvd(data_dir=data_dir, **settings))


def _render(tasks: list[tuple[int, str, int]], workers: int) -> Iterator[dict[str, Any]]:
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


def _example(split: str, index: int, image_id: int, scene: dict[str, Any]) -> dict[str, Any]:
  """The record of a scene with what may be known about it in this split."""
  names = [vocabulary.CLASS_NAMES[c] for c in scene["classes"]]
  if split == "train_boxes":
    shown = [name in vocabulary.BASE for name in names]
  elif split in SPLITS_WITH_ALL_BOXES:
    shown = [name not in vocabulary.OTHER for name in names]
  else:
    shown = [False] * len(names)
  text = " ".join(scene["captions"]) if split in SPLITS_WITH_CAPTIONS else ""
  fields = scene | {name: scene[name][shown] for name in ("boxes", "classes", "areas")}
  fields["captions"] = scene["captions"] if text else ()
  labels = [c for c, name in enumerate(vocabulary.CLASS_NAMES) if name in text]
  filename = f"{split}_{index:06d}.jpg"
  return schema.encode_record(**fields, image_id=image_id, filename=filename, labels=labels)


def main():
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--data_dir", required=True, help="root folder of built data sets, perhaps gs://..."
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scale", type=float, default=1.0, help="times the default sizes")
  parser.add_argument("--workers", type=int, help="processes that render, by default one per CPU")
  args = parser.parse_args()
  settings = {"seed": args.seed, "sizes": sizes_at(args.scale), "workers": args.workers}
  try:
    builder = build(args.data_dir, **settings)
  except (ValueError, OSError) as error:
    parser.exit(1, f"{error}\n")
  for name, split in builder.info.splits.items():
    print(f"{name}: {split.num_examples} records")
  print(builder_lib.place(builder))


if __name__ == "__main__":
  main()
