import fractions

import numpy as np
import pytest

from rkd_jax.detect import video
from rkd_jax.records.decoding import BadImageError

av = pytest.importorskip("av", reason="PyAV is the extra `video`")


@pytest.fixture
def file(tmp_path):
  """Ten grey frames, the n-th of value 20 n, at 5 frames a second."""
  path = tmp_path / "grey.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=5)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(10):
      pixels = np.full((48, 64, 3), 20 * number, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())
  return path


def test_every_third_frame(file):
  frames = video.read(file, 3, 10_000)
  assert frames.rate == fractions.Fraction(5, 3)
  for number, picture in zip(frames.numbers(), frames):
    assert picture.filename == f"{file}#{number}" and picture.size == (64, 48)
    assert abs(int(np.asarray(picture).mean()) - 20 * number) < 6
  assert number == 9


def test_what_is_written_is_read_back(file, tmp_path):
  frames = video.read(file, 2, 10_000)
  target = tmp_path / "sub" / "drawn.mp4"
  with video.writing(target, frames) as write:
    for value in (0, 100, 200):
      write(np.full((51, 81, 3), value, np.uint8))  # odd sides
  again = list(video.read(target, 1, 10_000))
  assert [picture.size for picture in again] == [(80, 50)] * 3
  assert [abs(int(np.asarray(p).mean()) - v) < 6 for p, v in zip(again, (0, 100, 200))] == [
    True
  ] * 3


def test_nothing_is_left_of_a_video_that_fails(file, tmp_path):
  frames = video.read(file, 1, 10_000)
  with pytest.raises(RuntimeError), video.writing(tmp_path / "out" / "drawn.mp4", frames) as write:
    write(np.zeros((48, 64, 3), np.uint8))
    raise RuntimeError
  assert list((tmp_path / "out").iterdir()) == []


def test_bad_videos(file, tmp_path):
  (tmp_path / "text.mp4").write_text("no video")
  with pytest.raises(BadImageError, match=r"Cannot read the video .*text\.mp4"):
    video.read(tmp_path / "text.mp4", 1, 10_000)
  with pytest.raises(BadImageError, match=r"frames of 3,072 pixels; --max_pixels is 3000"):
    video.read(file, 1, 3000)
  cut = tmp_path / "cut.mp4"
  cut.write_bytes(file.read_bytes()[:600])
  with pytest.raises(BadImageError, match=r"cut\.mp4"):
    list(video.read(cut, 1, 10_000))
