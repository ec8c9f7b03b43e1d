"""Lists of JSON files, read entry by entry; what is wrong with them is said at once."""

import json
import tracemalloc

import msgspec
import pytest

from rkd_jax.files import json_values
from rkd_jax.files.json_lists import Document, Problems


class Thing(msgspec.Struct):
  id: json_values.Id
  name: str = ""
  flag: json_values.Flag = 0


def _write(folder, text):
  (folder / "f.json").write_text(text)
  return folder / "f.json"


def test_content_may_come_from_elsewhere(tmp_path):
  document = Document(tmp_path / "none.json", b'{"a": [{"id": -1}]}')
  assert list(document.entries("a", Thing)) == []
  with pytest.raises(ValueError, match=r"none\.json: a\[0\]: id is -1"):
    document.problems.check()


def test_entries_come_with_their_positions(tmp_path):
  document = Document(_write(tmp_path, '{"a": [{"id": 3}, {"id": 4, "name": "x"}], "b": NaN}'))
  assert list(document.entries("a", Thing)) == [(0, Thing(3)), (1, Thing(4, "x"))]
  assert document.has("b") and not document.has("c") and not document.is_list
  document.problems.check()


def test_a_list_needs_no_key(tmp_path):
  document = Document(_write(tmp_path, '[{"id": 3}]'))
  assert document.is_list and list(document.entries("", Thing)) == [(0, Thing(3))]


def test_what_does_not_fit_is_left_out_and_what_is_odd_is_counted(tmp_path):
  text = '{"a": [{"id": "3", "flag": true}, {"id": "x", "flag": 2}, {"id": 5.0}, {"name": 1}]}'
  document = Document(_write(tmp_path, text))
  assert list(document.entries("a", Thing)) == [(0, Thing(3, "", 1)), (2, Thing(5))]
  assert document.notes == {
    "a with id as text": 1,
    "a with id as a decimal": 1,
    "a with flag as true or false": 1,
  }
  with pytest.raises(ValueError, match=r"f\.json has 3 problems:") as error:
    document.problems.check()
  lines = str(error.value).splitlines()[1:]
  assert [line.split("f.json: ")[1].split(",")[0] for line in lines] == [
    "a[1]: id is 'x'",
    "a[1]: flag is 2",
    "a[3] has no 'id': COCO format asks for id.",
  ]


def test_keys_that_occur_twice_are_found_however_they_are_written(tmp_path):
  with pytest.raises(ValueError, match=r"f\.json has 'a' twice"):
    Document(_write(tmp_path, '{"a": [], "b": 1, "a": [1]}'))
  entries = (
    '{"id": 1, "n": {"id": 2}}',
    '{"id": 1, "\\u0069d" : 2}',
    '{"name": "\\"id\\": 1", "id": 3}',
  )
  text = f'{{"a": [{", ".join(entries)}]}}'
  document = Document(_write(tmp_path, text))
  assert [thing.id for _, thing in document.entries("a", Thing)] == [1, 3]
  with pytest.raises(ValueError, match=r"a\[1\] has 'id' twice: keep one"):
    document.problems.check()


def test_the_first_problems_are_shown_and_the_others_counted():
  problems = Problems("f.json", shown=2)
  assert not problems
  for kind in ("bbox", "bbox", "bbox", "id", "bbox"):
    problems.add(kind, f"f.json: bad {kind}")
  with pytest.raises(ValueError) as error:
    problems.check()
  assert str(error.value).splitlines() == [
    "f.json has 5 problems:",
    "  f.json: bad bbox",
    "  f.json: bad bbox",
    "  and 3 more: 2 of bbox, 1 of id",
  ]


def test_memory_holds_the_file_and_one_entry(tmp_path):
  text = json.dumps({"a": [{"id": n, "other": list(range(200))} for n in range(2000)]})
  path = _write(tmp_path, text)
  tracemalloc.start()
  count = sum(1 for _ in Document(path).entries("a", Thing))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 2000 and len(text) < peak < 1.3 * len(text)
