"""The machine against Python's own."""

import collections
import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rkd_jax.files.untrusted.pickles import MAX_STEPS
from rkd_jax.files.untrusted.reading import Allowance, ReadError
from rkd_jax.files.untrusted.tensors import Array, Names

SCALARS = (
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
KEYS = st.none() | st.booleans() | st.integers(-(2**59), 2**59) | st.text() | st.binary()
VALUES = st.recursive(
  SCALARS | st.frozensets(KEYS) | st.sets(KEYS),
  lambda inner: (
    st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner, max_size=5)
  ),
  max_leaves=20,
)


def run(data):
  return Names(Allowance("file", len(data))).machine(io.BytesIO(data), len(data)).run()


@settings(deadline=None)
@given(VALUES, st.integers(0, 5))
def test_plain_values_are_those_of_pickle(value, protocol):
  data = pickle.dumps(value, protocol=protocol)
  assert run(data) == value


def test_what_is_shared_stays_shared():
  part = [1]
  first, second = run(pickle.dumps([part, part]))
  assert first is second
  cycle = []
  cycle.append(cycle)
  found = run(pickle.dumps(cycle))
  assert found[0] is found


@pytest.mark.parametrize("protocol", range(6))
def test_classes_that_are_known(protocol):
  value = [collections.OrderedDict(a=1), collections.Counter("aa"), np.float32(2), np.arange(3)]
  ordered, counter, scalar, array = run(pickle.dumps(value, protocol=protocol))
  assert (ordered, counter) == ({"a": 1}, {"a": 2})
  assert isinstance(scalar, Array) and scalar.array == np.float32(2) and scalar.array.shape == ()
  np.testing.assert_array_equal(array.array, [0, 1, 2])


def test_old_classes_and_attributes_of_containers():
  state = collections.OrderedDict(a=1)
  state._metadata = {"version": 1}
  assert run(pickle.dumps(state)) == {"a": 1}
  assert run(b"(i__builtin__\ndict\n.") == {}  # INST, and OBJ
  assert run(b"(c__builtin__\nlist\n(K\1K\2to.") == [1, 2]


@pytest.mark.parametrize(
  "data, message",
  [
    (b"\x80\4N0" + b"\x85.", "list index|pop from empty"),
    (b"(t(.", "a mark where a value is expected"),
    (b"]K\1s.", "no dict|pop|dict"),
    (b"N}b.", "the state of"),
    (b"K\1)R.", "a call of 1"),
    (b"c__builtin__\nlist\nK\1\x85R.", "a container made from 1"),
    (b"\x82\1.", "outside the file"),
    (b"Pname\n.", "outside the file"),
    (b"\xff.", "no opcode"),
    (b"K", "bytes announced"),
    (b"I12", "ends within a line"),
    (b"S12\n.", "without its quotes"),
  ],
)
def test_what_is_no_pickle_is_refused(data, message):
  with pytest.raises((ValueError, TypeError, LookupError), match=message):
    run(data)


def test_steps_are_counted():
  with pytest.raises(ReadError, match="more than 1,000,000 steps"):
    run(b"N0" * (MAX_STEPS // 2) + b"N0.")
