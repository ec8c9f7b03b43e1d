import pytest

from rkd_jax.files import json_checks
from rkd_jax.files.json_checks import differences


def test_differences_are_named_by_their_path():
  old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {"f": 1}}
  new = {"b": {"c": (1, 3)}, "e": 2, "a": 1, "g": "new"}
  assert differences(old, new) == {
    "b.c": ([1, 2], [1, 3]),
    "e": ({"f": 1}, 2),
    "g": (None, "new"),
  }
  assert differences({"a": {"b": (1,)}}, {"a": {"b": [1], "c": None}}) == {}


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b'{"a": 1, "a": 2}', r"has 'a' twice in one object"),
    (b'[{"a": NaN}]', r"has NaN, which is no JSON"),
    (b'{"a": [1,\n 2}', r"is not valid JSON: line 2, column 3"),
    (b"[" * 100_000, r"nested too deeply"),
    (b'{"a": "\xff"}', r"is not a text file in UTF-8: line 1 has invalid start byte"),
    ('{"a": "ä"}'.encode("utf-16"), r"is not a text file in UTF-8, perhaps in UTF-16"),
    (b"\x1f\x8b\x08", r"is an archive"),
    (None, r"Cannot read .*No such file"),
  ],
)
def test_a_file_that_is_no_json_is_named(tmp_path, content, message):
  path = tmp_path / "f.json"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    json_checks.read_json(path)
  assert str(path) in str(error.value)


def test_a_sound_file_is_read_with_its_mark_and_huge_numbers(tmp_path):
  (tmp_path / "f.json").write_bytes(b'\xef\xbb\xbf{"a": [12, ' + b"1" * 5000 + b"]}")
  assert json_checks.read_json(tmp_path / "f.json") == {"a": [12, float("inf")]}
