"""Data on an object store (gs://bucket/folder) used as if it lay on the local disk.

ArrayRecord reads and writes local files alone.  What lies elsewhere is therefore worked on in a
cache, $RKD_JAX_CACHE or ~/.cache/rkd_jax:

    copies/gs/bucket/folder    files as they are at gs://bucket/folder
    builds/gs/bucket/folder    data sets made for that place, until they are there

Any path that etils.epath opens will do.  Local paths are used as they are, and nothing is copied.
"""

import contextlib
import fcntl
import fnmatch
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec.config
from etils import epath
from tqdm.contrib.concurrent import thread_map

# gcsfs would remember listings for as long as the process lives, while others write to the folder.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)

# Files under way at once; one alone does not fill a line.
_STREAMS = 8
_CHUNK = 8 << 20


def is_remote(place: str | os.PathLike) -> bool:
  """Whether the path is a URI, such as gs://bucket/folder."""
  return "://" in os.fspath(place)


def path(place: str | os.PathLike) -> epath.Path:
  """The path, local or remote, once it is certain that this kind can be opened.

  Raises ValueError: an unknown scheme, or the package that opens it is not installed.
  """
  try:
    result = epath.Path(place)
    if is_remote(result):
      result.exists()
  except KeyError as error:
    raise ValueError(
      f"{place}: unknown kind of path {error}; expected a local one, or gs:// (etils.epath)."
    ) from error
  except ImportError as error:
    raise ValueError(
      f"{place} cannot be opened: {error}. What reads gs:// is gcsfs: pip install gcsfs."
    ) from error
  return result


def matching(folder: str | os.PathLike, pattern: str) -> list[epath.Path]:
  """What fits a pattern such as 'a*/b.json' in a folder, local or remote, sorted; hidden names not.

  The path of the folder is no pattern, as it would be for `epath.Path.glob`: so "data [1]" is
  found.
  """
  found = [epath.Path(folder)]
  for part in pattern.split("/"):
    if glob.has_magic(part):
      entries = [entry for place in found if place.is_dir() for entry in place.iterdir()]
      fitting = fnmatch.filter({entry.name for entry in entries}, part)
      found = [e for e in entries if e.name in fitting and not e.name.startswith(".")]
    else:
      found = [place / part for place in found if (place / part).exists()]
  return sorted(found)


def work_folder(place: str | os.PathLike) -> Path:
  """Where to write files that `put` then moves to `place`: the same folder if it is local."""
  folder = _in_cache("copies", place) if is_remote(place) else Path(place)
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def build_folder(place: str | os.PathLike) -> str:
  """Where to make what `publish` then moves to `place`: the same folder if it is local."""
  return os.fspath(_in_cache("builds", place) if is_remote(place) else place)


def origin(folder: str | os.PathLike) -> epath.Path:
  """The place that a folder in `build_folder(place)` is for; any other folder is its own."""
  builds = _cache() / "builds"
  if not Path(folder).is_relative_to(builds):
    return epath.Path(folder)
  scheme, *parts = Path(folder).relative_to(builds).parts
  return epath.Path(f"{scheme}://{'/'.join(parts)}")


def local_copy(
  place: str | os.PathLike,
  wanted: Callable[[str], bool] = lambda name: True,
  missing_ok: bool = False,
) -> Path:
  """The folder itself if it is local, else the copy of its files, without its subfolders.

  What has been copied before is compared by length and time of change.  Processes of one machine
  wait for each other.  A copy appears under its name when it is complete.  `wanted` says by name
  which files are needed.

  Raises:
    FileNotFoundError: there is no file, unless `missing_ok`.
    OSError: the disk is too small, or a file changed meanwhile.
    ValueError: see `path`.
  """
  if not is_remote(place):
    return Path(place)
  source, folder = path(place), work_folder(place)
  with _locked(folder):
    there = _files(source)
    if not there and not missing_ok:
      raise FileNotFoundError(f"{place}: there is no such folder, or no file in it.")
    for file in folder.iterdir():
      # Those that end so belong to a writer that has not closed them yet.
      if file.is_file() and file.name not in there and file.suffix != ".partial":
        file.unlink()
    missing = [name for name in there if wanted(name) and _stat(folder / name) != there[name]]
    needed, free = sum(there[name][0] for name in missing), shutil.disk_usage(folder).free
    if needed > free:
      raise OSError(
        f"{place}: its copy needs {needed:,} bytes more in {folder}, where {free:,} are free. "
        "Make room, or set RKD_JAX_CACHE to a folder that has it."
      )

    def fetch(name: str) -> None:
      partial, (length, mtime) = folder / f"{name}.download", there[name]
      _copy(source / name, partial, length)
      os.utime(partial, (mtime, mtime))
      os.replace(partial, folder / name)

    if missing:
      thread_map(fetch, missing, max_workers=_STREAMS, desc=f"reading {place}", unit=" files")
  return folder


def put(file: Path, target: str | os.PathLike) -> None:
  """Moves a file in `work_folder` to its place; if that is remote, it stays as the copy of it.

  Raises OSError: it did not arrive whole; ValueError: see `path`.
  """
  if not is_remote(target):
    os.replace(file, target)
    return
  _copy(file, path(target))
  _keep(file, target)


@contextlib.contextmanager
def writing(target: str | os.PathLike) -> Iterator[Path]:
  """Gives a local file to write, which is moved to `target` when the block ends without an error.

  So a file is there whole or not at all, and a block that fails leaves the old one.  The folder is
  made if it is not there.  Errors are those of `put`.
  """
  target = path(target)
  # Other processes may write the same file at the same time.
  # The name of the file, which may be as long as names can be, is not part of it.
  partial = work_folder(target.parent) / f".{uuid.uuid4().hex}.partial"
  try:
    yield partial
    put(partial, target)
  finally:
    partial.unlink(missing_ok=True)


def write(target: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file whole or not at all, text in UTF-8; see `writing`."""
  with writing(target) as partial:
    partial.write_bytes(content.encode() if isinstance(content, str) else content)


def publish(folder: str | os.PathLike, place: str | os.PathLike, last: str) -> None:
  """Moves `build_folder` of a remote place there; a local place is that folder itself.

  The file named `last`, which says that the others are there, is the last one.  Where an error of
  `put` occurs, all files are still in the folder.
  """
  if not is_remote(place):
    return
  folder, place = Path(folder), path(place)
  files = [file for file in folder.iterdir() if file.is_file() and file.name != last]
  targets = [place / file.name for file in files]
  bar = f"writing {place}"
  thread_map(_copy, files, targets, max_workers=_STREAMS, desc=bar, unit=" files")
  _copy(folder / last, place / last)
  for file, target in zip((*files, folder / last), (*targets, place / last)):
    _keep(file, target)
  shutil.rmtree(folder)


def _cache() -> Path:
  return Path(os.environ.get("RKD_JAX_CACHE", "~/.cache/rkd_jax")).expanduser().absolute()


def _in_cache(kind: str, place: str | os.PathLike) -> Path:
  scheme, _, rest = os.fspath(place).partition("://")
  return _cache() / kind / scheme / rest.strip("/")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
  """Waits until no other process of this machine changes which complete files are in a copy."""
  with folder.with_name(f"{folder.name}.lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _stat(file: Path | epath.Path) -> tuple[int, int] | None:
  """Length, and time of the last change in seconds; None if there is no such file."""
  stat = epath.Path(file).stat() if file.exists() else None
  return None if stat is None or stat.is_directory else (stat.length, stat.mtime)


def _files(folder: epath.Path) -> dict[str, tuple[int, int]]:
  """Name -> length and time of the files in a remote folder."""
  stats = {file.name: _stat(file) for file in folder.iterdir()} if folder.is_dir() else {}
  return {name: stat for name, stat in stats.items() if stat is not None}


def _copy(source: Path | epath.Path, target: Path | epath.Path, length: int | None = None) -> None:
  """Copies a file whole or not at all; OSError if another length (default: its own) arrives."""
  source, target = epath.Path(source), epath.Path(target)
  length = source.stat().length if length is None else length
  try:
    with source.open("rb") as reader, target.open("wb") as writer:
      shutil.copyfileobj(reader, writer, _CHUNK)
    if (arrived := target.stat().length) != length:
      raise OSError(f"{source}: {arrived:,} of {length:,} bytes arrived at {target}; try again.")
  except BaseException:
    # An object store keeps what had been written when the block was left.
    target.unlink(missing_ok=True)
    raise


def _keep(file: Path, target: str | os.PathLike) -> None:
  """Makes an uploaded file the copy of what is at the target."""
  target = epath.Path(target)
  folder, mtime = work_folder(target.parent), target.stat().mtime
  os.utime(file, (mtime, mtime))
  with _locked(folder):
    os.replace(file, folder / target.name)
