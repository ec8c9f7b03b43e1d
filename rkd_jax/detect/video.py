"""Videos in and out, through PyAV (the extra `video`), a frame at a time."""

import contextlib
import fractions
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tqdm
from PIL import Image

from rkd_jax.files import storage
from rkd_jax.pictures.draw import Picture
from rkd_jax.records.decoding import BadImageError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def _av() -> Any:
  try:
    import av
  except ImportError as error:
    raise ImportError("Videos need PyAV: pip install 'rkd_jax[video]'") from error
  return av


class Frames:
  """Every so many frames of a video, as pictures that are called FILE#NUMBER, with a progress bar.

  Attributes:
    rate: of the frames that are taken, in frames a second.
  """

  def __init__(self, file: Path, every: int, max_pixels: int):
    self._file, self._every = file, every
    av = _av()
    try:
      self._container = av.open(os.fspath(file))
      stream = self._container.streams.video[0]
      self._rate = fractions.Fraction(stream.average_rate or 25)
      self._total = stream.frames // every or None
      pixels = stream.codec_context.width * stream.codec_context.height
    except (av.FFmpegError, IndexError, OSError) as error:
      raise BadImageError(f"Cannot read the video {file}: {error}.") from error
    if pixels > max_pixels:
      raise BadImageError(
        f"{file} has frames of {pixels:,} pixels; --max_pixels is {max_pixels}. Make it smaller, "
        "or raise --max_pixels."
      )

  @property
  def rate(self) -> fractions.Fraction:
    return self._rate / self._every

  def numbers(self) -> Iterator[int]:
    """Numbers of the frames that are taken."""
    number = 0
    while True:
      yield number
      number += self._every

  def __iter__(self) -> Iterator[Image.Image]:
    av = _av()
    with self._container, tqdm.tqdm(total=self._total, desc=self._file.name, unit="frame") as bar:
      try:
        for number, frame in enumerate(self._container.decode(video=0)):
          if number % self._every:
            continue
          picture: Any = frame.to_image()
          picture.filename = f"{self._file}#{number}"
          yield picture
          bar.update()
      except av.FFmpegError as error:
        raise BadImageError(f"The video {self._file} is damaged: {error}.") from error


def read(file: Path, every: int, max_pixels: int) -> Frames:
  """The frames of a video, which is opened at once.

  Raises:
    ImportError: PyAV is not installed.
    BadImageError: the file is no video, or its frames are too large; also while it is read.
  """
  return Frames(file, every, max_pixels)


@contextlib.contextmanager
def writing(target: Path, frames: Frames) -> Iterator[Callable[[Picture], None]]:
  """A function that adds a picture to an MP4 (H.264), which is there when the block ends well.

  All pictures have the size of the first; H.264 wants even sides, so a last odd line is left out.
  """
  av = _av()
  with storage.writing(target) as file, av.open(os.fspath(file), "w", format="mp4") as container:
    stream: Any = None

    def write(picture: Picture) -> None:
      nonlocal stream
      height, width = (side // 2 * 2 for side in picture.shape[:2])
      if stream is None:
        stream = container.add_stream("libx264", rate=frames.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
      frame = av.VideoFrame.from_ndarray(picture[: stream.height, : stream.width], format="rgb24")
      container.mux(stream.encode(frame))

    yield write
    if stream is not None:
      container.mux(stream.encode())
