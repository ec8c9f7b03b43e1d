"""What prediction leaves in its folder: pictures, videos, and the files that say what was found."""

import collections
import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rkd_jax.data.coco_json.annotations import load_filenames
from rkd_jax.detect import video
from rkd_jax.detect.result import Result
from rkd_jax.files import storage
from rkd_jax.pictures.draw import fitted, png_bytes
from rkd_jax.records.class_names import clean_name, load_categories

RESULTS_FILE, IMAGES_FILE, TABLE_FILE = "predictions.json", "images.json", "predictions.csv"
_COLUMNS = ("file", "frame", "word", "score", "x1", "y1", "x2", "y2")


class Outputs:
  """The folder of a prediction; as a context it writes its files when it ends, however that is.

  Attributes:
    content: that of images.json, see `rkd_jax.predict`.
    done: images and videos that were added.
  """

  def __init__(
    self,
    files: Sequence[Path],
    output: str | os.PathLike,
    names: Sequence[str],
    min_score: float | Mapping[str, float],
    annotations: str | None = None,
  ):
    """`files` are all that will come; the others are as for `predict`.

    Raises:
      ValueError: a picture would replace an image or another picture; an image or a word is not
        among the annotations.
    """
    self._folder, self._min_score, self.done = Path(output), min_score, 0
    self._total = len(files)
    targets = _picture_files(files, self._folder)
    self._targets = {os.fspath(file): target for file, target in zip(files, targets)}
    self._ids, self._next = _image_ids(files, annotations), 0
    self._categories = _category_ids(names, annotations)
    self._detections: list[dict[str, Any]] = []
    self._table: list[dict[str, Any]] = []
    self.content: dict[str, Any] = {
      "info": {"description": "What rkd_jax found; the boxes are in predictions.json."},
      "complete": False,
      "min_score": min_score,
      "drawn": 0,
      "skipped": [],
      "categories": [{"id": own, "name": name} for name, own in self._categories.items()],
      "images": [],
      "annotations": [],
    }

  def add(self, result: Result) -> str:
    """Writes an image's picture and takes what was found on it; returns a summary."""
    target, shown = self._targets[result.name], result.above(self._min_score)
    storage.write(target, png_bytes(shown.draw_on(fitted(_image_of(result)))))
    self._take(result, shown, {"picture": str(target.relative_to(self._folder))})
    self.done += 1
    return _summary(shown.labels)

  def add_video(self, file: Path, frames: video.Frames, results: Iterable[Result]) -> str:
    """The same of a video's frames, which are drawn into an MP4."""
    counts: list[str] = []
    with video.writing(self._targets[os.fspath(file)], frames) as write:
      for number, result in zip(frames.numbers(), results):
        shown = result.above(self._min_score)
        write(shown.draw_on(fitted(_image_of(result))))
        self._take(result, shown, {"frame": number})
        counts += shown.labels
    self.done += 1
    return _summary(counts)

  def _take(self, result: Result, shown: Result, about: Mapping[str, Any]) -> None:
    file = result.name if "frame" not in about else result.name.rpartition("#")[0]
    image_id = self._ids[file] if self._ids and "frame" not in about else self._next
    self._next += 1
    height, width = result.size
    entry = {"id": image_id, "file_name": file, "height": height, "width": width, **about}
    self._detections += result.to_coco(image_id, self._categories)
    for box, row in zip(shown.boxes.tolist(), shown.to_coco(image_id, self._categories)):
      corners = (round(value, 2) for value in box)
      cells = (file, about.get("frame", ""), row["category"], round(row["score"], 4), *corners)
      chance = {"probability": round(row["probability"], 4)} if "probability" in row else {}
      self._table.append({**dict(zip(_COLUMNS, cells)), **chance})
    self.content["images"].append(entry)
    self.content["drawn"] += len(shown)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
    if kind is None:
      if not self.content["images"]:
        raise ValueError(f"None of the {self._total} images can be decoded.")
      self.content["complete"] = True
      self._write()
      return
    # What was stopped in the middle of an image.
    kept = {entry["id"] for entry in self.content["images"]}
    self._detections = [own for own in self._detections if own["image_id"] in kept]
    with contextlib.suppress(OSError):  # a full disk, of which the error tells that is on its way
      self._write()
    print(
      f"{len(kept)} of {self._total} images are done, with their pictures and {RESULTS_FILE} in "
      f"{self._folder}. The same command begins anew.",
      flush=True,
    )

  def _write(self) -> None:
    table = io.StringIO()
    columns = {name: None for row in self._table for name in row} or _COLUMNS
    writer = csv.DictWriter(table, [*columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(self._table)
    storage.write(self._folder / RESULTS_FILE, json.dumps(self._detections))
    storage.write(self._folder / IMAGES_FILE, json.dumps(self.content, indent=1))
    # Of names that are not UTF-8 those bytes are written that they have.
    text = table.getvalue().encode("utf-8", "surrogateescape")
    storage.write(self._folder / TABLE_FILE, text)


def _image_of(result: Result) -> Any:
  assert result.image is not None
  return result.image


def _summary(labels: Sequence[str]) -> str:
  """'2 person, 1 dog', most frequent first."""
  ranked = collections.Counter(labels).most_common()
  return ", ".join(f"{count} {label}" for label, count in ranked) or "nothing found"


def _category_ids(names: Sequence[str], annotations: str | None) -> dict[str, int]:
  if annotations is None:
    return {name: number for number, name in enumerate(names, start=1)}
  own = {clean_name(entry["name"]): own for own, entry in load_categories(annotations).items()}
  if missing := [name for name in names if name not in own]:
    raise ValueError(
      f"{annotations} has no category {missing[0]!r}, nor {len(missing) - 1} more of the words: "
      "look for its categories only, with --classes."
    )
  return {name: own[name] for name in names}


def _image_ids(files: Sequence[Path], annotations: str | None) -> dict[str, int]:
  """Ids by file, found by the longest end of its path that the annotations have; {} without."""
  if annotations is None:
    return {}
  known = {Path(name).parts: own for own, name in load_filenames(annotations).items()}
  found = {}
  for file in files:
    parts = file.absolute().parts
    ends = (known[parts[i:]] for i in range(len(parts)) if parts[i:] in known)
    own = next(ends, None)
    if own is None:
      raise ValueError(
        f"{annotations} has no image {file.name!r}: give images that it has, or no --annotations."
      )
    found[os.fspath(file)] = own
  return found


def _picture_files(files: Sequence[Path], output: Path) -> list[Path]:
  """A PNG per image (MP4 per video) under `output`, in the same subfolders; no two alike, and no
  image itself.

  Images keep the names that they are given by, also where these are links.
  """
  files = [Path(os.path.abspath(file)) for file in files]
  root = os.path.commonpath([file.parent for file in files])
  relative = [file.relative_to(root) for file in files]
  endings = [".mp4" if file.suffix.lower() in video.SUFFIXES else ".png" for file in relative]
  targets = [output / file.with_suffix(end) for file, end in zip(relative, endings)]
  if _collision(targets):  # a.jpg and a.png
    targets = [output / f"{file}{end}" for file, end in zip(relative, endings)]
  if alike := _collision(targets):
    raise ValueError(f"Two images have the same picture {alike}: give one of them at a time.")
  own = {os.path.realpath(file) for file in files}
  for target in targets:
    if os.path.realpath(target) in own:
      raise ValueError(f"The picture {target} would replace an image: give another --output.")
  return targets


def _collision(pictures: Sequence[Path]) -> Path | None:
  """A file that stands twice in a list, or is a folder of another; None where there is none."""
  folders = {folder for picture in pictures for folder in picture.parents}
  counts = collections.Counter(pictures)
  return next((p for p, count in counts.items() if count > 1 or p in folders), None)
