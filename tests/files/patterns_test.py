"""What a user may name: a file, a folder, a pattern, with any characters in the names."""

import os

import pytest

from rkd_jax.files.patterns import find_files

SUFFIXES = (".jpg", ".png")


@pytest.fixture
def folder(tmp_path):
  for name in (
    "a.jpg",
    "b.PNG",
    "notes.txt",
    ".hidden.jpg",
    "a[1].jpg",
    "a1.jpg",
    "trip [2024]/c.jpg",
    "trip [2024]/deep/d e.jpg",
    "trip 2/c.jpg",
    "folder.jpg/e.jpg",
  ):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(name)
  return tmp_path


@pytest.mark.parametrize(
  "given, expected",
  [
    ("", ["a.jpg", "a1.jpg", "a[1].jpg", "b.PNG"]),
    ("a.jpg", ["a.jpg"]),
    ("notes.txt", ["notes.txt"]),
    (".hidden.jpg", [".hidden.jpg"]),
    ("a[1].jpg", ["a[1].jpg"]),
    ("*.jpg", ["a.jpg", "a1.jpg", "a[1].jpg"]),
    (".*.jpg", [".hidden.jpg"]),
    ("[ab].*", ["a.jpg", "b.PNG"]),
    ("?.jpg", ["a.jpg"]),
    ("trip [2024]", ["trip [2024]/c.jpg"]),
    ("trip [2024]/*.jpg", ["trip [2024]/c.jpg"]),
    ("trip [2024]/*/d e.jpg", ["trip [2024]/deep/d e.jpg"]),
    ("trip*/c.jpg", ["trip 2/c.jpg", "trip [2024]/c.jpg"]),
    ("trip [1-3]/c.jpg", ["trip 2/c.jpg"]),
    ("trip*/**/*.jpg", ["trip 2/c.jpg", "trip [2024]/c.jpg", "trip [2024]/deep/d e.jpg"]),
    ("folder.jpg", ["folder.jpg/e.jpg"]),
    ("missing.jpg", []),
    ("a.jpg/*.jpg", []),
  ],
)
def test_what_exists_is_taken_as_it_is_and_the_rest_is_a_pattern(folder, given, expected):
  found = find_files(f"{folder}/{given}" if given else str(folder), SUFFIXES)
  assert [str(path.relative_to(folder)) for path in found] == expected


def test_subfolders_are_gone_through_once(folder):
  (folder / "trip 2" / "back").symlink_to(folder)
  (folder / "link.jpg").symlink_to("a.jpg")
  (folder / "nowhere.jpg").symlink_to("nothing")
  found = [str(path.relative_to(folder)) for path in find_files(f"{folder}/**/*.jpg", SUFFIXES)]
  assert len(found) == len(set(found)) == 9
  assert {"link.jpg", "nowhere.jpg", "folder.jpg/e.jpg"} <= set(found)
  everything = find_files(f"{folder}/**", SUFFIXES)
  assert len(everything) == 11


def test_paths_may_be_relative_to_here_or_home(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setenv("HOME", str(folder))
  assert [str(path) for path in find_files("trip [2024]/*.jpg", ())] == ["trip [2024]/c.jpg"]
  assert find_files("~/a.jpg", ()) == [folder / "a.jpg"]
  assert find_files("./a?.jpg", ()) == [*map(type(folder), ["a1.jpg"])]
  (folder / "~").mkdir()
  (folder / "~" / "f.jpg").write_text("f")
  assert [str(path) for path in find_files("~", SUFFIXES)] == ["~/f.jpg"]


def test_names_that_are_not_utf8(folder):
  path = os.path.join(os.fsencode(folder), b"caf\xe9.jpg")
  with open(path, "wb"):
    pass
  assert os.fsencode(find_files(f"{folder}/caf*.jpg", ())[0]) == path
  assert os.fsencode(find_files(os.fsdecode(path), ())[0]) == path
