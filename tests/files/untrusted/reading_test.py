import os

import pytest

from rkd_jax.files.untrusted.reading import (
  Allowance,
  ReadError,
  opening,
  reading,
  refuse_head,
  shown,
)


def test_an_allowance_grows_with_the_file():
  allowance = Allowance("f", 1000)
  allowance.take(16_000, "a")
  allowance.take_shape((1 << 18, 0, 1), 4, "an empty array")
  with pytest.raises(ReadError, match=r"f has 1,000 bytes, .* more than 16 times .*: b\."):
    allowance.take(1, "b")


@pytest.mark.parametrize(
  "error, message",
  [
    (MemoryError(), "f needs more memory than there is. Expected this"),
    (RecursionError(), "f nests its content too deeply"),
    (KeyError("x" * 9999), "f is no readable thing: KeyError: 'xxx"),
    (EOFError("short"), r"f is truncated or corrupt \(short\)"),
  ],
)
def test_whatever_goes_wrong_names_the_file(error, message):
  with pytest.raises(ReadError, match=message) as caught, reading("f", "this", "thing"):
    raise error
  assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
  "head, message",
  [
    (b"", "is empty"),
    (bytes(262), "begins with zeros alone"),
    (b"\xef\xbb\xbf \n<!DocType HTML>", "is a web page"),
    (b"<?xml version='1.0'?>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    (b'{\n "error": "x"}', "is JSON"),
    (b"\x1f\x8b\x08", "gunzip"),
  ],
)
def test_what_is_no_file_of_weights_is_known_by_its_beginning(head, message):
  with pytest.raises(ReadError, match=message):
    refuse_head("f", head)


@pytest.mark.parametrize("head", [b"PK\3\4", b"\x80\2}", b"(dp0", b"\x93NUMPY\1\0", b"{nothing"])
def test_others_are_left_to_their_readers(head):
  refuse_head("f", head)


def test_only_files_are_opened(tmp_path):
  """A pipe would be waited for."""
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path, tmp_path / "pipe"):
    with pytest.raises(ReadError, match="a folder or a device"), opening(path, "x"):
      pass
  with pytest.raises(FileNotFoundError), opening(tmp_path / "none", "x"):
    pass


def test_what_errors_show_is_short():
  doubled = ()
  for _ in range(60):
    doubled = (doubled, doubled)
  for value in (doubled, 10**9999, b"x" * 10**6, "x" * 10**6, {1: [2] * 10**6}, object()):
    assert len(shown(value)) < 130
  assert shown((1, 2.5, None, "a")) == "(1, 2.5, None, 'a')"
