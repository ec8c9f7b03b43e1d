"""Random access to the records of a built data set, without the builder's code and TensorFlow.

Images stay encoded until `decode_image`.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
import xxhash
from absl import logging
from etils import epath
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from rkd_jax.files import storage
from rkd_jax.records import decoding, schema
from rkd_jax.records import index as index_lib
from rkd_jax.records.results import FIELDS, checked
from rkd_jax.records.shards import damage_named

_REMEDY = "remove that folder and build the data set again"


def _none(*shape: int, dtype: type = np.float32) -> Callable[[], np.ndarray]:
  return lambda: np.zeros((0, *shape), dtype)


@dataclasses.dataclass(frozen=True)
class Record:
  """One image with what is known about it; boxes are XYXY pixels of the stored image.

  `source` says where the record comes from, for messages.  Splits without boxes have g = 0, splits
  without captions l = 0; there are k = 0 regions and p = 0 pseudo boxes until the results of
  teachers are joined (`records.joined`).  `polygons` of each object (float64 XY pixels, perhaps
  none) and LVIS' classes without or with missing boxes are None for data sets that lack them.
  """

  image: bytes
  image_id: int
  filename: str
  height: int
  width: int
  boxes: Float[np.ndarray, "g 4"]
  classes: Int[np.ndarray, "g"]
  is_crowd: Bool[np.ndarray, "g"]
  areas: Float[np.ndarray, "g"]
  object_ids: Int[np.ndarray, "g"]
  labels: Int[np.ndarray, "l"]
  captions: tuple[str, ...]
  region_boxes: Float[np.ndarray, "k 4"] = dataclasses.field(default_factory=_none(4))
  region_embeddings: Float[np.ndarray, "k d"] = dataclasses.field(default_factory=_none(0))
  region_scores: Float[np.ndarray, "k"] = dataclasses.field(default_factory=_none())
  pseudo_boxes: Float[np.ndarray, "p 4"] = dataclasses.field(default_factory=_none(4))
  pseudo_labels: Int[np.ndarray, "p"] = dataclasses.field(default_factory=_none(dtype=np.int32))
  pseudo_scores: Float[np.ndarray, "p"] = dataclasses.field(default_factory=_none())
  source: str = ""
  polygons: tuple[tuple[Float[np.ndarray, "_ 2"], ...], ...] | None = None
  negative_labels: Int[np.ndarray, "n"] | None = None
  not_exhaustive_labels: Int[np.ndarray, "e"] | None = None


def with_results(record: Record, arrays: dict[str, np.ndarray]) -> Record:
  """The record with the arrays of a teachers' result (`results.FIELDS`)."""
  return dataclasses.replace(
    record,
    region_boxes=arrays["regions/boxes"],
    region_embeddings=arrays["regions/clip_embeddings"],
    region_scores=arrays["regions/scores"],
    pseudo_boxes=arrays["pseudo_boxes/boxes"],
    pseudo_labels=arrays["pseudo_boxes/labels"].astype(np.int32),
    pseudo_scores=arrays["pseudo_boxes/scores"],
  )


class Source:
  """The records of one split, by position; safe to share between threads.

  `data_dir`, `dataset` and `split` are what it was opened by.  `has_results` is true for data sets
  of earlier versions that were built with the teachers' results in them.  `image_counts` (training
  images per class), `frequencies` (LVIS: r, c or f per class) and `ancestors` (the classes above
  each) are None where the data set does not say.
  """

  def __init__(
    self, builder: tfds.core.DatasetBuilder, data_dir: str | os.PathLike, name: str, split: str
  ):
    """See `open_source`."""
    self.name = f"{name}/{split}"
    self.data_dir, self.dataset, self.split = data_dir, name, split
    metadata = cast(dict[str, Any], builder.info.metadata)
    self.class_names: tuple[str, ...] = tuple(metadata["class_names"])
    self.base: tuple[str, ...] = tuple(metadata["base"])
    self.novel: tuple[str, ...] = tuple(metadata["novel"])
    self.has_all_boxes: bool = split in metadata["splits_with_all_boxes"]
    self.has_results = bool(metadata["settings"].get("teachers"))
    self._made_from = {key: metadata[key] for key in ("class_names", "base", "novel", "settings")}
    self._embedding_dim = metadata.get("embedding_dim")
    self.image_counts: tuple[int, ...] | None = tuple(metadata.get("image_counts") or ()) or None
    self.frequencies: tuple[str, ...] | None = tuple(metadata.get("frequencies") or ()) or None
    self.ancestors: tuple[list[int], ...] | None = tuple(metadata.get("ancestors") or ()) or None
    self._folder = Path(builder.data_dir)
    decoders = {"image": tfds.decode.SkipDecoding()}
    self._records = builder.as_data_source(split, decoders=decoders)  # pyright: ignore[reportCallIssue]

  def __len__(self) -> int:
    return len(self._records)

  @functools.cached_property
  def index(self) -> index_lib.Index:
    """The split's index; where no builder has written one, all records are read for it."""
    if index_lib.file_of(self._folder, self.split).exists():
      return index_lib.load(self._folder, self.split)
    return self._make_index()

  @property
  def identity(self) -> str:
    """The same for the same records, wherever they lie."""
    settings = json.dumps(self._made_from, sort_keys=True)
    return f"{xxhash.xxh3_64_hexdigest(settings.encode())}{index_lib.digest(self.index)}"

  def index_with_ids(self) -> index_lib.Index:
    """The index with image ids; where an earlier version has written it, all records are read."""
    if self.index.image_ids is None:
      logging.warning("%s: its index has no image ids yet; reading all records once.", self.name)
      # Replaces the cached property.
      self.index = self._make_index()
    return self.index

  def _make_index(self) -> index_lib.Index:
    index = index_lib.make(
      (
        record.height,
        record.width,
        record.classes[~record.is_crowd],
        len(record.labels),
        len(record.pseudo_labels),
        record.image_id,
        index_lib.checksum(record.image),
      )
      for record in self
    )
    # Where the folder cannot be written, it is made again next time.
    with contextlib.suppress(OSError):
      index_lib.save(self._folder, self.split, index)
    return index

  def __getitem__(self, index: int) -> Record:
    """The record at a position; IndexError beyond the last, ValueError where it is damaged."""
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {self.name}, which has {len(self)}")
    with damage_named(self._folder, _REMEDY, f", record {index} of {self.name}"):
      example = self._records[index]
    record = _record(example, self.name)
    if not self.has_results:
      return record
    where = f"{_name(record)}, results of the teachers"
    arrays = {key: np.asarray(example[key], dtype) for key, (dtype, _) in FIELDS.items()}
    return with_results(record, checked(arrays, self._embedding_dim, where))


class Selection:
  """Some records of a source, as a source."""

  def __init__(self, source: Source, positions: Int[np.ndarray, "k"]):
    """The records at `positions`, in that order."""
    self._source, self._positions = source, positions

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, index: int) -> Record:
    """As `Source`; the index is one of the selection."""
    if not 0 <= index < len(self):
      raise IndexError(f"record {index} of {len(self)} selected ones of {self.name}")
    return self._source[int(self._positions[index])]

  @functools.cached_property
  def index(self) -> index_lib.Index:
    """That of these records."""
    return self._source.index.take(self._positions)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)


def select(source: Source, rule: str) -> "Source | Selection":
  """The records that have what a rule asks for (`Index.matching`); ValueError if there is none."""
  if rule == "":
    return source
  positions = np.flatnonzero(source.index.matching(rule))
  if not len(positions):
    raise ValueError(
      f"none of the {len(source)} records of {source.name} has {rule.replace('_', ' ')}: choose "
      "another split or data set, or records='' to take all of them"
    )
  return Selection(source, positions)


def open_source(data_dir: str | os.PathLike, name: str, split: str) -> Source:
  """Opens a split of a built data set; of a remote one, a local copy (`storage.local_copy`).

  Args:
    data_dir: the folder that was given to the builder.
    name: of the data set and its config: "shapes_ovd/scenes".
    split: name of the split.

  Raises:
    ValueError: not built, damaged, or there is no such split.
    OSError: of a remote data set, see `storage.local_copy`.
  """
  root = storage.path(data_dir)
  folder = root / name
  # A build that was killed leaves a folder incomplete.*_1.0.0.
  versions = [path.parent for path in storage.matching(folder, "[0-9]*.*.*/dataset_info.json")]
  if not versions:
    raise ValueError(
      f"no data set {name!r} under {str(data_dir)!r}; {_found(root)}. {_remedy(data_dir, name)}"
    )
  latest = max(versions, key=lambda path: [int(number) for number in path.name.split(".")])

  def needed(file: str) -> bool:
    of_a_split = ".array_record-" in file or file.endswith(".index.npz")
    own = f"-{split}.array_record-" in file or file == index_lib.file_of("", split).name
    return own or not of_a_split

  local = storage.local_copy(latest, needed)
  with damage_named(local, _REMEDY):
    builder = tfds.builder_from_directory(str(local))
  if split not in builder.info.splits:
    raise ValueError(
      f"data set {name!r} in {str(latest)!r} has no split {split!r}; "
      f"it has {', '.join(sorted(builder.info.splits))}"
    )
  with damage_named(local, _REMEDY):
    return Source(builder, data_dir, name, split)


def decode_image(record: Record) -> UInt8[np.ndarray, "h w 3"]:
  """The pixels of `open_image`."""
  return decoding.pixels(open_image(record))


def open_image(record: Record) -> Image.Image:
  """The image in RGB; BadImageError if it cannot be decoded or is not of the recorded size."""
  # The builder has admitted the size; one that differs is found before anything is decoded.
  return decoding.open_image(record.image, _name(record), recorded=(record.width, record.height))


def _name(record: Record) -> str:
  return f"image {record.filename!r} (id {record.image_id}, {record.source or 'no source'})"


def _found(data_dir: epath.Path) -> str:
  found = {
    path.parent.parent.relative_to(data_dir).as_posix()
    for depth in ("*/*/", "*/*/*/")
    for path in storage.matching(data_dir, f"{depth}dataset_info.json")
  }
  return f"found: {', '.join(sorted(found))}" if found else "found none there"


def _remedy(data_dir: str | os.PathLike, name: str) -> str:
  data_set, _, config = name.partition("/")
  if config == "rkd":
    plain = f"{data_set}/{'scenes' if data_set == 'shapes_ovd' else 'plain'}"
    return (
      "Records are no longer built a second time with the teachers' results: set "
      f"config.data.name={plain} and config.data.teachers=FOLDER, the --output of "
      "rkd_jax.precompute, also of an earlier version"
    )
  return f"Build it with: python -m rkd_jax.data.{data_set}.{data_set} --data_dir={data_dir}"


def _rows(values: Any, dtype: type, *shape: int) -> np.ndarray:
  """A list of rows, perhaps empty, as an array [n, *shape]."""
  return np.asarray(values, dtype).reshape(-1, *shape)


def _record(example: dict[str, Any], source: str) -> Record:
  objects = example["objects"]
  height, width = int(example["image/height"]), int(example["image/width"])
  polygons = None
  if "polygons/lengths" in example:
    flat = (np.asarray(example[f"polygons/{name}"]) for name in ("vertices", "lengths", "objects"))
    polygons = schema.decode_polygons(*flat, count=len(objects["label"]))
  return Record(
    image=bytes(example["image"]),
    image_id=int(example["image/id"]),
    filename=example["image/filename"].decode("utf-8", "surrogateescape"),
    height=height,
    width=width,
    boxes=schema.decode_boxes(_rows(objects["bbox"], np.float32, 4), height, width),
    classes=_rows(objects["label"], np.int32),
    is_crowd=_rows(objects["is_crowd"], np.bool_),
    areas=_rows(objects["area"], np.float32),
    object_ids=_rows(objects["id"], np.int64),
    labels=_rows(example["labels"], np.int32),
    captions=tuple(caption.decode() for caption in example["captions"]),
    source=source,
    polygons=polygons,
    **{name: _rows(example[name], np.int32) for name in schema.FEDERATED if name in example},
  )
