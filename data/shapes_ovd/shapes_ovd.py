"""TFDS builder of shapes_ovd, the embedded data set: OV-COCO in small, made from a seed.

Splits, after open-vocabulary COCO:

    clip           captioned scenes of 48×48 to train a CLIP on; no boxes
    train_boxes    boxes of base classes only; novel objects are in view, not annotated
    train_images   captions and the labels found in them; no boxes
    tune           boxes of base and novel classes, to choose settings on
    validation     the same; nothing is chosen on it

    python -m rkd_jax.data.shapes_ovd.shapes_ovd --data_dir=DIR [--seed=0 --scale=1]
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import scenes, vocabulary

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


@dataclasses.dataclass(frozen=True)
class SceneEntry:
  """One scene, not rendered yet."""

  seed: int
  split: str
  index: int

  def load(self) -> dict[str, Any]:
    """The arguments of `schema.encode_record`: what may be known of the scene in this split."""
    scene = scenes.encoded_scene((self.seed, self.split, self.index))
    names = [vocabulary.CLASS_NAMES[c] for c in scene["classes"]]
    if self.split == "train_boxes":
      shown = [name in vocabulary.BASE for name in names]
    elif self.split in SPLITS_WITH_ALL_BOXES:
      shown = [name not in vocabulary.OTHER for name in names]
    else:
      shown = [False] * len(names)
    captions = scene["captions"] if self.split in SPLITS_WITH_CAPTIONS else ()
    text = " ".join(captions)
    return {
      **scene,
      **{name: scene[name][shown] for name in ("boxes", "classes", "areas")},
      "captions": captions,
      "labels": [c for c, name in enumerate(vocabulary.CLASS_NAMES) if name in text],
      "image_id": (1 + scenes.SPLITS.index(self.split)) * _IDS_PER_SPLIT + self.index,
      "filename": f"{self.split}_{self.index:06d}.jpg",
    }


@dataclasses.dataclass(frozen=True)
class SceneSplit:
  """A `making.Split` of the first scenes of a split."""

  seed: int
  name: str
  size: int

  class_names = vocabulary.CLASS_NAMES
  has_polygons = federated = False

  @property
  def source(self) -> str:
    """What is rendered."""
    return f"shapes_ovd, {self.name}"

  def describe(self, name: str) -> list[str]:
    """The number of scenes."""
    return [f"{name}: {self.size} scenes"]

  def image_counts(self) -> None:
    """As `making.Split`; nobody asks."""

  def first(self, limit: int) -> "SceneSplit":
    """As `making.Split`."""
    return dataclasses.replace(self, size=min(self.size, limit))

  def __len__(self) -> int:
    return self.size

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[SceneEntry]:
    """As `making.Split`."""
    for index in range(self.size)[start:stop]:
      yield SceneEntry(self.seed, self.name, index)


class ShapesOvd(builder.RecordBuilder):
  """Scenes of silhouettes with compositional names; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="scenes", description="Images, boxes and captions."),
  ]
  SPLITS_WITH_ALL_BOXES = SPLITS_WITH_ALL_BOXES

  def __init__(self, *, seed: int = 0, sizes: Mapping[str, int] | None = None, **kwargs: Any):
    """Nothing is rendered until `download_and_prepare`.

    Args:
      seed: of the scenes.
      sizes: scenes per split, default DEFAULT_SIZES.
      **kwargs: what every builder takes, see `data.builder.RecordBuilder`.

    Raises:
      ValueError: an unknown split in `sizes` or no scenes for it.
    """
    sizes = dict(DEFAULT_SIZES if sizes is None else sizes)
    for split, size in sizes.items():
      if split not in scenes.SPLITS or size < 1:
        raise ValueError(
          f"sizes: {split!r}: {size} is not a positive number of scenes for one of the splits "
          f"{', '.join(scenes.SPLITS)}"
        )
    super().__init__(
      splits={split: SceneSplit(seed, split, size) for split, size in sizes.items()},
      base=vocabulary.BASE,
      novel=vocabulary.NOVEL,
      settings={"seed": seed, "sizes": sizes, "look": scenes.fingerprint(seed)},
      **kwargs,
    )


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
  return builder.prepare(ShapesOvd(data_dir=data_dir, **settings))


def main():
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scale", type=float, default=1.0, help="times the default sizes")

  def make(scale: float, **settings: Any) -> ShapesOvd:
    return ShapesOvd(sizes=sizes_at(scale), **settings)

  builder.run(parser, make)


if __name__ == "__main__":
  main()
