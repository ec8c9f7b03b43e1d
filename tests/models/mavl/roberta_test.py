import jax
import numpy as np
import pytest

from rkd_jax.models.mavl.roberta import Roberta
from tests.tiny_mvit import tokenize

MODEL = Roberta(vocab_size=40, width=16, layers=2, heads=2, hidden=16, positions=18)


@pytest.fixture(scope="module")
def encode():
  tokens = tokenize(["all objects"])
  variables = jax.jit(MODEL.init)(jax.random.key(0), *tokens)
  return jax.jit(lambda *tokens: MODEL.apply(variables, *tokens))


def test_padding_changes_nothing(encode):
  short, long = tokenize(["all objects"]), tokenize(["all objects", "a b c d e f g h i"])
  assert short.ids.shape[1] < long.ids.shape[1]
  count = short.valid.sum()
  np.testing.assert_allclose(encode(*short)[0, :count], encode(*long)[0, :count], atol=1e-5)


def test_order_matters(encode):
  one, other = encode(*tokenize(["dog bites man"])), encode(*tokenize(["man bites dog"]))
  assert not np.allclose(one[0, 2], other[0, 2], atol=1e-3)


def test_rows_beyond_the_table_of_positions_are_refused():
  """18 positions, of which 0 and 1 are not counted from."""
  ids = np.full((1, 17), 5)
  with pytest.raises(ValueError, match="17 entries, the text encoder takes 16"):
    jax.eval_shape(MODEL.init, jax.random.key(0), ids, ids > 0)
