import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.models.detector.weight_transfer import WeightTransfer
from rkd_jax.models.detector.zero_shot_classifier import ZeroShotClassifier

WIDTH, DIM, HIDDEN, RESIDUAL = 5, 3, 4, 2
RNG = np.random.default_rng(0)


def dense(inputs, outputs):
  kernel = RNG.normal(size=(inputs, outputs)).astype(np.float32)
  return {"kernel": kernel, "bias": RNG.normal(size=outputs).astype(np.float32)}


PARAMS = {
  "fc1": dense(WIDTH, HIDDEN),
  "fc2": dense(HIDDEN, WIDTH),
  "fc3": dense(WIDTH, RESIDUAL),
  "fc4": dense(RESIDUAL, DIM),
}
X = RNG.normal(size=(2, WIDTH)).astype(np.float32)
DISTILLED = RNG.normal(size=(WIDTH, DIM)).astype(np.float32)


def test_row_by_row_evaluation():
  """Each embedding dimension's weight vector is mapped on its own; the residual is a plain MLP."""

  def layer(name, vector):
    return PARAMS[name]["kernel"].T @ vector + PARAMS[name]["bias"]

  def leaky(v):
    return np.where(v > 0, v, 0.1 * v)

  expected = np.zeros((2, DIM))
  for i, x in enumerate(X):
    residual = layer("fc4", leaky(layer("fc3", x)))
    for dim in range(DIM):
      row = layer("fc2", leaky(layer("fc1", DISTILLED[:, dim])))
      expected[i, dim] = row @ x + residual[dim]
  output = WeightTransfer(HIDDEN, RESIDUAL).apply({"params": PARAMS}, X, DISTILLED)
  np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_distilled_embeddings_do_not_see_the_transfer():
  """RKD goes through the distilled projection alone, classification through the transfer."""
  text = np.eye(DIM, dtype=np.float32)
  projection = {"kernel": DISTILLED, "bias": np.ones(DIM, np.float32)}
  model = ZeroShotClassifier(DIM, weight_transfer=(HIDDEN, RESIDUAL))

  def outputs(params):
    logits, distilled = model.apply({"params": params}, X, text)
    return jnp.sum(jnp.abs(logits)), jnp.sum(distilled)

  params = {"projection": projection, "transfer": PARAMS}
  of_logits, of_distilled = jax.jit(jax.jacrev(outputs))(params)
  assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(of_distilled["transfer"]))
  assert np.abs(of_distilled["projection"]["kernel"]).min() > 0
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(of_logits["transfer"]))
  # The bias of the distilled projection has no part in classification.
  np.testing.assert_array_equal(of_logits["projection"]["bias"], 0)
