"""Files that grow: what cannot be written is kept."""

import resource

import pytest

from rkd_jax.files.patient import PatientFile


@pytest.fixture
def room():
  """Sets how long a file may become in this process: longer ones fail as on a full disk."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_content_is_there_at_once_and_behind_what_was_there(tmp_path):
  (tmp_path / "a").write_bytes(b"1")
  file = PatientFile(tmp_path / "a")
  file.write(b"2")
  assert (tmp_path / "a").read_bytes() == b"12"
  file.close()


def test_what_does_not_fit_is_said_once_kept_and_written_later(tmp_path, room, caplog):
  file = PatientFile(tmp_path / "a")
  room(4)
  for part in (b"123", b"456", b"789"):
    file.write(part)
  assert (tmp_path / "a").read_bytes() == b"1234"
  assert len(caplog.records) == 1 and "It is kept" in caplog.records[0].getMessage()
  room(100)
  file.flush()
  assert (tmp_path / "a").read_bytes() == b"123456789"
  file.close()


def test_what_is_left_at_the_end_is_an_error(tmp_path, room):
  file = PatientFile(tmp_path / "a")
  room(2)
  file.write(b"12345")
  with pytest.raises(OSError, match=r"a: the last 3 bytes could not be written"):
    file.close()


def test_a_folder_that_is_gone_is_waited_for(tmp_path):
  file = PatientFile(tmp_path / "mount" / "a")
  file.write(b"1")
  (tmp_path / "mount").mkdir()
  file.write(b"2")
  file.close()
  assert (tmp_path / "mount" / "a").read_bytes() == b"12"
