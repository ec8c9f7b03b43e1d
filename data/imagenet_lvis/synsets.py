"""The images of ImageNet-21K, synset by synset, and splits made of them.

A folder of ImageNet-21K holds for each synset a folder nXXXXXXXX or the archive nXXXXXXXX.tar as it
was downloaded, whose members are read in place.  Images are called nXXXXXXXX_NUMBER.JPEG; the id
of an image is the synset's number * 10**7 + NUMBER.  At no time is more than the list of names of
one synset and one image in memory.
"""

import dataclasses
import hashlib
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from rkd_jax.data.imagenet_lvis.wordnet import wnid
from rkd_jax.data.making import Entry, Place, Split

# Of an image within its synset.
_NUMBERS = 10**7
_BLOCK = tarfile.BLOCKSIZE


def image_id(filename: str) -> int:
  """The id of an image by its file name, n01440764/n01440764_10026.JPEG, or ValueError."""
  match = re.fullmatch(r"n(\d{8})_(\d+)\.\w+", Path(filename).name)
  if match is None or int(match[2]) >= _NUMBERS:
    raise ValueError(f"{filename!r} is no image of ImageNet-21K: expected n01440764_10026.JPEG.")
  return int(match[1]) * _NUMBERS + int(match[2])


class Image(NamedTuple):
  """One file of a synset."""

  image_id: int
  filename: str
  place: Place


@dataclasses.dataclass(frozen=True)
class Synset:
  """A synset of ImageNet-21K, and the folder or archive of its images."""

  offset: int
  path: Path

  def images(self) -> Iterator[Image]:
    """The images: of a folder by their numbers, of an archive in its order.

    Raises ValueError: the archive is damaged or cut off, a file has another name than those of this
    synset, or two have the same number.
    """
    seen, own = {}, wnid(self.offset)
    files = _archived(self.path) if self.path.suffix == ".tar" else _in_folder(self.path)
    for name, place in files:
      match = re.fullmatch(rf"{own}_(\d+)\.(jpe?g|png)", name, re.IGNORECASE)
      if match is None or (number := int(match[1])) >= _NUMBERS:
        raise ValueError(
          f"{self.path}: {name!r} is no image of this synset, expected names like "
          f"{own}_10026.JPEG with a number below {_NUMBERS}: remove it."
        )
      if number in seen:
        raise ValueError(
          f"{self.path}: {seen[number]} and {name} have the same number, so the same image id: "
          "remove one of them."
        )
      seen[number] = name
      yield Image(self.offset * _NUMBERS + number, f"{own}/{name}", place)


def find(folder: str | os.PathLike) -> dict[int, Synset]:
  """The synsets that a folder of ImageNet-21K holds, by number; their images are not looked at.

  Raises ValueError: no such folder, nothing in it, or both the folder and the archive of a synset.
  """
  found = {}
  try:
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  except OSError as error:
    raise ValueError(
      f"Cannot read {folder}: {error.strerror}. It should be the folder of ImageNet-21K."
    ) from error
  for entry in entries:
    match = re.fullmatch(r"n(\d{8})(\.tar)?", entry.name)
    if match is None or entry.is_dir() == bool(match[2]):
      continue
    offset = int(match[1])
    if offset in found:
      raise ValueError(
        f"{folder} has {wnid(offset)} as a folder and as an archive: keep one of them, since the "
        "folder may have been unpacked in part."
      )
    found[offset] = Synset(offset, Path(entry.path))
  if not found:
    raise ValueError(f"{folder} holds no folder nXXXXXXXX and no archive nXXXXXXXX.tar.")
  return found


def _in_folder(path: Path) -> Iterator[tuple[str, Place]]:
  names = [name for name in os.listdir(path) if not name.startswith(".")]
  for name in sorted(names, key=lambda name: (len(name), name)):
    yield name, Place(path / name)


def _archived(path: Path) -> Iterator[tuple[str, Place]]:
  """Names and places of the files of an archive, in one walk through it."""
  end = 0
  try:
    with tarfile.open(path, "r:") as archive:
      for member in archive:
        end = member.offset_data
        if member.isfile() and not member.issparse():
          end += -(-member.size // _BLOCK) * _BLOCK
          name = member.name.rpartition("/")[2]
          if not name.startswith("."):
            yield name, Place(path, member.offset_data, member.size)
        elif not member.isdir():
          raise ValueError(f"{path}: {member.name!r} is neither a file nor a folder: remove it.")
  except (tarfile.TarError, OSError) as error:
    raise _damaged(path, str(error)) from error
  # tarfile takes a header that is cut off or damaged for the end, which is a block of zeros.
  with path.open("rb") as file:
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
      raise _damaged(path, f"it has no end behind its first {end} bytes")


def _damaged(path: Path, reason: str) -> ValueError:
  return ValueError(
    f"{path} is damaged, cut off, or no uncompressed tar archive ({reason}): get it again."
  )


@dataclasses.dataclass(frozen=True)
class SynsetSplit(Split):
  """Whole synsets of a folder in their order: images with the class of their synset, no boxes.

  `labels` has the classes and `counts` the number of images by the number of the synset; of all
  images only the first `limit` are stored.
  """

  source: str
  class_names: Sequence[str]
  synsets: Sequence[Synset]
  labels: Mapping[int, Sequence[int]]
  counts: Mapping[int, int]
  limit: int | None = None

  def checksum(self) -> str:
    """A short checksum of which synsets there are and how many images they have."""
    lines = "".join(f"{wnid(offset)} {count}\n" for offset, count in self.counts.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]

  def describe(self, name: str) -> list[str]:
    """Counts, and the synsets without images."""
    total, empty = sum(self.counts.values()), [k for k, v in self.counts.items() if not v]
    classes = {label for offset in self.counts for label in self.labels[offset]}
    lines = [
      f"{name}: {total} images of {len(self.counts)} synsets and {len(classes)} classes"
      + ("" if self.limit is None else f"; of them the first {len(self)}")
    ]
    if empty:
      lines.append(f"{name}: {len(empty)} synsets without images: {list(map(wnid, empty[:20]))}")
    return lines

  def first(self, limit: int) -> "SynsetSplit":
    return dataclasses.replace(self, limit=limit)

  def __len__(self) -> int:
    total = sum(self.counts.values())
    return total if self.limit is None else min(self.limit, total)

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
    """The entries; synsets that lie before `start` are not looked at."""
    stop = len(self) if stop is None else min(stop, len(self))
    first = 0
    for synset in self.synsets:
      count = self.counts[synset.offset]
      own = range(max(start - first, 0), min(stop - first, count))
      if own:
        for number, filename, place in itertools.islice(synset.images(), own.start, own.stop):
          labels = self.labels[synset.offset]
          fields = {"image_id": number, "filename": filename, "labels": labels}
          yield Entry(place, f"{filename} (image id {number}) of {place.path}", fields)
      first += count


def make_split(
  folder: str | os.PathLike,
  class_names: Sequence[str],
  synsets: Sequence[Synset],
  labels: Mapping[int, Sequence[int]],
) -> SynsetSplit:
  """The split of all images of some synsets of a folder; goes through all names."""
  bar = tqdm(synsets, f"listing {folder}", unit=" synsets")
  counts = {synset.offset: sum(1 for _ in synset.images()) for synset in bar}
  return SynsetSplit(str(folder), class_names, synsets, labels, counts)
