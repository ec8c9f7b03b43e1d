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
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from rkd_jax.data import builder, making
from rkd_jax.data.shapes_ovd import scenes, vocabulary

DEFAULT_SIZES = dict(clip=8000, train_boxes=2400, train_images=2400, tune=300, validation=800)
SPLITS_WITH_CAPTIONS = ("clip", "train_images")
SPLITS_WITH_ALL_BOXES = ("tune", "validation")
_IDS_PER_SPLIT = 1_000_000


@dataclasses.dataclass(frozen=True)
class SceneEntry:
  """One scene, not rendered yet."""

  seed: int
  split: str
  index: int

  def load(self, max_pixels: int = 0) -> dict[str, Any]:
    """The arguments of `schema.encode_record`: what may be known of the scene in this split.

    Nothing is decoded, and no limit needed.
    """
    scene = scenes.make_scene(self.seed, self.split, self.index)
    image = io.BytesIO()
    # As photographs are stored; a PNG of these noisy scenes takes ten times as long to write.
    Image.fromarray(scene.image).save(image, format="JPEG", quality=92, subsampling=0)
    visible = np.bincount(scene.owners.ravel(), minlength=len(scene.classes) + 1)[1:]
    names = [vocabulary.CLASS_NAMES[c] for c in scene.classes]
    boxed = vocabulary.BASE if self.split == "train_boxes" else ()
    if self.split in SPLITS_WITH_ALL_BOXES:
      boxed = vocabulary.BASE + vocabulary.NOVEL
    shown = [name in boxed for name in names]
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
      "labels": [c for c, name in enumerate(vocabulary.CLASS_NAMES) if name in text],
      "image_id": (1 + scenes.SPLITS.index(self.split)) * _IDS_PER_SPLIT + self.index,
      "filename": f"{self.split}_{self.index:06d}.jpg",
    }


@dataclasses.dataclass(frozen=True)
class SceneSplit(making.Split):
  """Scenes of a split; `images` are their numbers."""

  seed: int
  name: str
  images: range

  class_names = vocabulary.CLASS_NAMES

  @property
  def source(self) -> str:
    return f"shapes_ovd, {self.name}"

  def describe(self, name: str) -> list[str]:
    return [f"{name}: {len(self)} scenes"]

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[SceneEntry]:
    for index in self.images[start:stop]:
      yield SceneEntry(self.seed, self.name, index)


class ShapesOvd(builder.RecordBuilder):
  """Scenes of silhouettes with compositional names; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="scenes", description="Images, boxes and captions."),
  ]
  SPLITS_WITH_ALL_BOXES = SPLITS_WITH_ALL_BOXES

  def __init__(self, *, seed: int = 0, sizes: Mapping[str, int] | None = None, **kwargs: Any):
    """Takes `sizes`, scenes by split (ValueError for none); `builder.prepare` renders them."""
    sizes = dict(DEFAULT_SIZES if sizes is None else sizes)
    for split, size in sizes.items():
      if split not in scenes.SPLITS or size < 1:
        raise ValueError(
          f"sizes: {split!r}: {size} is not a positive number of scenes for one of the splits "
          f"{', '.join(scenes.SPLITS)}"
        )
    super().__init__(
      splits={split: SceneSplit(seed, split, range(size)) for split, size in sizes.items()},
      base=vocabulary.BASE,
      novel=vocabulary.NOVEL,
      settings={"seed": seed, "sizes": sizes, "look": scenes.fingerprint(seed)},
      **kwargs,
    )


def sizes_at(scale: float) -> dict[str, int]:
  """DEFAULT_SIZES times `scale`, at least 4 scenes each."""
  return {split: max(round(size * scale), 4) for split, size in DEFAULT_SIZES.items()}


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  parser = builder.argument_parser(__doc__)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scale", type=float, default=1.0, help="times the default sizes")
  builder.run(parser, lambda scale, **given: ShapesOvd(sizes=sizes_at(scale), **given), arguments)


if __name__ == "__main__":
  main()
