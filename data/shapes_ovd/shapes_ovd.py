"""TFDS builder of shapes_ovd, the embedded data set: OV-COCO in small, made from a seed.

Splits, after open-vocabulary COCO:

    clip           captioned scenes of 48×48 to train a CLIP on; no boxes
    train_boxes    boxes of base classes only; novel objects are in view, not annotated
    train_images   captions and the labels found in them; no boxes
    tune           boxes of base and novel classes, to choose settings on
    validation     the same; nothing is chosen on it

shapes_ovd/elsewhere (`--name=elsewhere`) is a data set that no detector is trained on, with other
names in another style: boxes of 40 novel classes in `tune` and `validation`.  shapes_ovd/concepts
(`--name=concepts`) has image-level labels of 400 random concepts (`train_images`), captions for a
CLIP that is to know them and the 80 names (`clip`), and boxes to measure that with (`tune`).

    python -m rkd_jax.data.shapes_ovd.shapes_ovd --data_dir=DIR [--name=scenes --seed=0 --scale=1]
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from rkd_jax.data import builder, making
from rkd_jax.data.shapes_ovd import concepts, elsewhere, scenes, vocabulary
from rkd_jax.data.shapes_ovd.painting import Scene

SPLITS_WITH_CAPTIONS = ("clip", "train_images")
SPLITS_WITH_ALL_BOXES = ("tune", "validation")
_IDS_PER_SPLIT = 1_000_000


@dataclasses.dataclass(frozen=True)
class Kind:
  """What a config of the builder holds.

  Attributes:
    description: for people.
    class_names: of all classes.
    base, novel: those with boxes in training, and those with boxes in evaluation alone.
    make_scene: from seed, split and number to a scene.
    sizes: scenes of each split by default.
    first_id: of its images, which no other has.
  """

  description: str
  class_names: tuple[str, ...]
  base: tuple[str, ...]
  novel: tuple[str, ...]
  make_scene: Callable[[int, str, int], Scene]
  sizes: Mapping[str, int]
  first_id: int

  @property
  def splits(self) -> tuple[str, ...]:
    return tuple(self.sizes)

  def boxed(self, split: str) -> tuple[str, ...]:
    """Names of the classes with boxes in a split."""
    if split in SPLITS_WITH_ALL_BOXES:
      return self.base + self.novel
    return self.base if split == "train_boxes" else ()

  def fingerprint(self, seed: int) -> str:
    """Changes when the way scenes are made changes: a checksum over the first ones."""
    digest = hashlib.sha256()
    for split in self.splits:
      for index in range(3):
        scene = self.make_scene(seed, split, index)
        digest.update(scene.image.tobytes() + scene.boxes.tobytes() + scene.classes.tobytes())
        digest.update(" ".join(scene.captions).encode())
    return digest.hexdigest()[:16]


KINDS = {
  "scenes": Kind(
    "Images, boxes and captions.",
    vocabulary.CLASS_NAMES,
    vocabulary.BASE,
    vocabulary.NOVEL,
    scenes.make_scene,
    dict(clip=8000, train_boxes=2400, train_images=2400, tune=300, validation=800),
    first_id=0,
  ),
  "elsewhere": Kind(
    "Images and boxes of other classes in another style, for evaluation.",
    elsewhere.CLASS_NAMES,
    (),
    elsewhere.CLASS_NAMES,
    elsewhere.make_scene,
    dict(tune=100, validation=400),
    first_id=10 * _IDS_PER_SPLIT,
  ),
  "concepts": Kind(
    "Captioned images of 400 concepts, for the strict setting.",
    concepts.CLASS_NAMES,
    (),
    concepts.CLASS_NAMES,
    concepts.make_scene,
    dict(clip=16000, train_images=2400, tune=100),
    first_id=20 * _IDS_PER_SPLIT,
  ),
}


@dataclasses.dataclass(frozen=True)
class SceneEntry:
  """One scene, not rendered yet."""

  seed: int
  split: str
  index: int
  kind: str = "scenes"

  def load(self, max_pixels: int = 0) -> dict[str, Any]:
    """The arguments of `schema.encode_record`: what may be known of the scene in this split.

    Nothing is decoded, and no limit needed.
    """
    kind = KINDS[self.kind]
    scene = kind.make_scene(self.seed, self.split, self.index)
    image = io.BytesIO()
    # As photographs are stored; a PNG of these noisy scenes takes ten times as long to write.
    Image.fromarray(scene.image).save(image, format="JPEG", quality=92, subsampling=0)
    visible = np.bincount(scene.owners.ravel(), minlength=len(scene.classes) + 1)[1:]
    boxed = kind.boxed(self.split)
    shown = np.isin(scene.classes, [kind.class_names.index(name) for name in boxed])
    captions = scene.captions if self.split in SPLITS_WITH_CAPTIONS else ()
    text = " ".join(captions)
    return {
      "image": image.getvalue(),
      "height": scene.image.shape[0],
      "width": scene.image.shape[1],
      "boxes": scene.boxes[shown],
      "classes": scene.classes[shown],
      "areas": visible[shown].astype(np.float32),
      "captions": captions,
      "labels": [c for c, name in enumerate(kind.class_names) if name in text],
      "image_id": kind.first_id + (1 + kind.splits.index(self.split)) * _IDS_PER_SPLIT + self.index,
      "filename": f"{self.split}_{self.index:06d}.jpg",
    }


@dataclasses.dataclass(frozen=True)
class SceneSplit(making.Split):
  """Scenes of a split; `images` are their numbers."""

  seed: int
  name: str
  images: range
  kind: str = "scenes"

  @property
  def class_names(self) -> tuple[str, ...]:
    return KINDS[self.kind].class_names

  @property
  def source(self) -> str:
    return f"shapes_ovd/{self.kind}, {self.name}"

  def describe(self, name: str) -> list[str]:
    return [f"{name}: {len(self)} scenes"]

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[SceneEntry]:
    for index in self.images[start:stop]:
      yield SceneEntry(self.seed, self.name, index, self.kind)


class ShapesOvd(builder.RecordBuilder):
  """Scenes of silhouettes with compositional names; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=name, description=kind.description) for name, kind in KINDS.items()
  ]
  SPLITS_WITH_ALL_BOXES = SPLITS_WITH_ALL_BOXES

  def __init__(
    self,
    *,
    config: str = "scenes",
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    **kwargs: Any,
  ):
    """Takes one of KINDS and `sizes`, scenes by split; `builder.prepare` renders them.

    Raises ValueError: no such kind or split, or no scene.
    """
    if config not in KINDS:
      raise ValueError(f"shapes_ovd has no {config!r}; it has {', '.join(KINDS)}.")
    kind = KINDS[config]
    sizes = dict(kind.sizes if sizes is None else sizes)
    for split, size in sizes.items():
      if split not in kind.splits or size < 1:
        raise ValueError(
          f"sizes: {split!r}: {size} is not a positive number of scenes for one of the splits "
          f"{', '.join(kind.splits)}"
        )
    super().__init__(
      splits={split: SceneSplit(seed, split, range(size), config) for split, size in sizes.items()},
      base=kind.base,
      novel=kind.novel,
      settings={"seed": seed, "sizes": sizes, "look": kind.fingerprint(seed)},
      config=config,
      **kwargs,
    )


def sizes_at(scale: float, kind: str = "scenes") -> dict[str, int]:
  """The default sizes times `scale`, at least 4 scenes each."""
  return {split: max(round(size * scale), 4) for split, size in KINDS[kind].sizes.items()}


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--name", choices=KINDS, default="scenes", help="of shapes_ovd/NAME")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scale", type=float, default=1.0, help="times the default sizes")

  def make(name: str, scale: float, **given: Any) -> ShapesOvd:
    return ShapesOvd(config=name, sizes=sizes_at(scale, name), **given)

  builder.run(parser, make, arguments)


if __name__ == "__main__":
  main()
