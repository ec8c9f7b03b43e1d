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
