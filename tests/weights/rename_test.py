import jax
import numpy as np
import pytest

from rkd_jax.weights import rename
from rkd_jax.weights.rename import Entry, WeightsError


@pytest.mark.parametrize(
  "layout, here, there",
  [
    (rename.AS_IS, (3,), (3,)),
    (rename.SCALAR, (), (1,)),
    (rename.LINEAR, (4, 5), (5, 4)),
    (rename.CONVOLUTION, (2, 3, 4, 5), (5, 4, 2, 3)),
    (rename.BGR_CONVOLUTION, (7, 7, 3, 4), (4, 3, 7, 7)),
    (rename.TRANSPOSED_CONVOLUTION, (2, 2, 4, 5), (4, 5, 2, 2)),
    (rename.of_flattened_map(18, 2), (18, 5), (5, 18)),
  ],
)
def test_what_is_written_reads_back(layout, here, there):
  value = np.random.default_rng(0).random(here)
  written = layout.write(value)
  assert written.shape == there
  np.testing.assert_array_equal(layout.read(written), value)


def test_three_parameters_share_an_entry():
  stored = np.arange(12).reshape(6, 2)
  parts = [rename.third(i, rename.LINEAR) for i in range(3)]
  np.testing.assert_array_equal(parts[1].read(stored), [[4, 6], [5, 7]])
  assert parts[1].write(np.zeros((2, 2))).shape == stored.shape


def test_rules_apply_in_their_order_and_the_leaf_gets_its_name():
  variables = {"a_1": {"kernel": np.zeros((2, 3)), "norm": {"var": np.zeros(3)}}}
  entries = rename.usual_entries(variables, [(r"^a_(\d)", r"x.\1"), (r"^x\.1", "y")])
  assert entries == {
    "a_1/kernel": Entry("y.weight", rename.LINEAR),
    "a_1/norm/var": Entry("y.norm.running_var", rename.AS_IS),
  }


def test_every_fault_is_listed_with_the_remedy():
  like = jax.ShapeDtypeStruct((2, 3), np.float32)
  expected = dict.fromkeys("abcdef", like)
  entries = {path: Entry(path.upper(), rename.LINEAR) for path in expected}
  state = {
    "A": np.ones((3, 2), np.float16),
    "B": np.ones((2, 3)),
    "C": np.full((3, 2), np.inf),
    "D": np.ones((3, 2), int),
    "counter": np.int64(3),
    "G": np.ones(4),
    "H": np.ones(4),
  }
  with pytest.raises(WeightsError) as error:
    rename.to_params(state, expected, entries, "Do this", r"count.*", ["F", "H"])
  assert str(error.value).splitlines() == [
    "the state dict does not fit the network. Do this:",
    "  B has shape (2, 3), the network needs (3, 2)",
    "  C holds numbers that are not finite",
    "  D has the type int64, expected floating-point numbers",
    "  missing E (for e)",
    "  unused G (4,)",
  ]


def test_parameters_have_the_types_of_the_network():
  expected = {"a": {"kernel": jax.ShapeDtypeStruct((2, 3), np.float32)}}
  entries = rename.usual_entries(expected, [])
  state = {"a.weight": np.arange(6, dtype=np.float16).reshape(3, 2)}
  params = rename.to_params(state, expected, entries, "")
  assert params["a"]["kernel"].dtype == np.float32
  np.testing.assert_array_equal(params["a"]["kernel"], state["a.weight"].T)
  np.testing.assert_array_equal(rename.from_params(params, entries)["a.weight"], state["a.weight"])


def test_prefixes_of_all_names_are_left_out():
  state = {"module._orig_mod.a": 1, "module._orig_mod.model.b": 2}
  assert rename.unwrapped(state) == {"a": 1, "model.b": 2}
  assert rename.unwrapped({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
  assert rename.unwrapped({}) == {}


def test_of_many_faults_ten_are_listed_and_all_counted():
  like = jax.ShapeDtypeStruct((2,), np.float32)
  expected = {f"a{i}": like for i in range(300)} | {"c": like}
  entries = {path: Entry(path, rename.AS_IS) for path in expected}
  state = {f"b{i}": np.ones(2) for i in range(250)} | {"c": np.ones(3)}
  with pytest.raises(WeightsError) as error:
    rename.to_params(state, expected, entries, "Do this")
  lines = str(error.value).splitlines()[1:]
  assert lines[-1] == "  ... 551 in all: 1 of another shape, type or value, 300 missing, 250 unused"
  kinds = [line.split()[0] for line in lines[:-1]]
  assert len(kinds) == 10 and [kinds.count(k) for k in ("c", "missing", "unused")] == [1, 5, 4]


def test_a_pattern_that_is_none_is_named():
  with pytest.raises(WeightsError, match=r"'\(' is no regular expression"):
    rename.to_params({}, {}, {}, "", allow=["("])
