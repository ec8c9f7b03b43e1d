"""Each primitive against JAX, run by ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.ops.nms import nms
from rkd_jax.ops.roi_align.multilevel import multilevel_roi_align

for package in ("onnx", "onnxruntime"):
  pytest.importorskip(package, reason="pip install 'rkd_jax[onnx]'")

import onnxruntime  # noqa: E402

from rkd_jax.export.onnx_graph import Weights  # noqa: E402
from rkd_jax.export.onnx_primitives import convert  # noqa: E402

pytestmark = pytest.mark.door
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 4)).astype(np.float32)
MAP = RNG.normal(size=(1, 9, 7, 3)).astype(np.float32)
POSITIVE = np.abs(X) + 1
WHOLE = RNG.integers(-9, 9, (2, 6, 4)).astype(np.int32)
INDEX = np.array([[3, 0], [5, 9]], np.int32)
KERNEL = RNG.normal(size=(3, 3, 3, 5)).astype(np.float32)


def run(function, folder, *arguments):
  """What ONNX Runtime computes, and JAX."""
  program = jax.make_jaxpr(function)(*arguments)
  names = [f"in{i}" for i in range(len(arguments))]
  outputs = [f"out{i}" for i in range(len(program.out_avals))]
  model = convert(program, names, outputs, Weights(folder / "weights.bin"), "test")
  (folder / "model.onnx").write_bytes(model.SerializeToString())
  session = onnxruntime.InferenceSession(folder / "model.onnx")
  found = session.run(None, dict(zip(names, map(np.asarray, arguments))))
  return found, jax.tree.leaves(jax.jit(function)(*arguments))


def check(function, folder, *arguments):
  found, expected = run(function, folder, *arguments)
  for ours, theirs in zip(found, expected, strict=True):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def conv(x, stride=1, pad=1):
  return jax.lax.conv_general_dilated(
    x, KERNEL, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def window(x, start, operator, padding):
  return jax.lax.reduce_window(x, start, operator, (1, 3, 3, 1), (1, 2, 2, 1), padding)


ONE = {
  "elementwise": lambda x: (jnp.exp(x), jnp.abs(x), jnp.sign(x), jnp.ceil(x), jnp.floor(x), -x),
  "sigmoid": jax.nn.sigmoid,
  "roots": lambda x: (jnp.sqrt(jnp.abs(x)), jax.lax.rsqrt(jnp.abs(x) + 1), x**3, x * x),
  "finite": lambda x: jnp.isfinite(x / jnp.where(x > 0, 1.0, 0.0)),
  "comparisons": lambda x: (x > 0, x >= 0, x < 0, x <= 0, x == 0, x != 0),
  "logic": lambda x: ((x > 0) & (x < 1), (x > 1) | (x < 0), ~(x > 0)),
  "select": lambda x: (jnp.where(x > 0, x, 0.0), jnp.where(x > 0, x < 1, x > -1)),
  "clip": lambda x: jnp.clip(x, -0.5, 0.5),
  "cast": lambda x: (x.astype(jnp.int32), (x > 0).astype(jnp.float32), x.astype(bool)),
  "shapes": lambda x: (x.reshape(3, 16), x[:, None], x.transpose(2, 0, 1), x.swapaxes(0, 1)),
  "broadcast": lambda x: x + jnp.arange(4.0) + jnp.broadcast_to(x[:1], x.shape),
  "large": lambda x: jnp.broadcast_to(x[0, 0], (300, 300, 4)) + jnp.ones((300, 300, 4)),
  "slices": lambda x: (x[:, 1:5:2], x[:, ::-1], x[0, 2:3]),
  "join": lambda x: (jnp.concatenate([x, x[:, :2]], 1), jnp.stack([x, x], 1)),
  "split": lambda x: jnp.split(x, (2, 3), axis=1),
  "pad": lambda x: (jnp.pad(x, ((0, 0), (1, 2), (3, 0))), jnp.pad(x > 0, ((0, 1), (0, 0), (0, 0)))),
  "sums": lambda x: (x.sum(1), x.max((0, 2)), x.min(), (x > 0).any(1), (x > 0).all(2), x.mean()),
  "cumulative": lambda x: (jnp.cumsum(x, 1), jnp.cumsum(x > 0, axis=2)),
  "top": lambda x: jax.lax.top_k(x, 3),
  "sort": lambda x: (jnp.sort(x, 1), jnp.argsort(x[0, :, 0], descending=True, stable=True)),
  "products": lambda x: (
    x @ x[0].T,
    jnp.einsum("bij,bkj->bik", x, x),
    jnp.einsum("bij,bij->i", x, x),
  ),
  "scan": lambda x: jax.lax.map(lambda row: row @ row.T, x),
  "carry": lambda x: jax.lax.scan(lambda total, row: (total + row, total.sum()), x[0] * 0, x),
  "while": lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 2), (0, x)),
  "cond": lambda x: jax.lax.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, x),
  "largest of images": lambda x: jax.vmap(lambda y: jax.lax.pmax(y, "b"), axis_name="b")(x),
  "platform": lambda x: jax.lax.platform_dependent(x, tpu=lambda y: y * 7, default=lambda y: y + 1),
  "numbered": lambda x: jnp.nonzero(x[0, :, 0] > 0, size=4, fill_value=9)[0],
  "static update": lambda x: x.at[..., 1:3].set(x[..., :2] * 2),
}


@pytest.mark.parametrize("name", ONE)
def test_functions_of_an_array(name, tmp_path):
  check(ONE[name], tmp_path, X)


@pytest.mark.parametrize(
  "function",
  [
    lambda x, i: x[0][i],
    lambda x, i: x[0].at[i].get(mode="fill", fill_value=0.0),
    lambda x, i: jax.vmap(lambda row, j: row[j])(x, i),
    lambda x, i: jax.vmap(lambda row, j: row.at[j].get(mode="clip"))(x, i),
    lambda x, i: jax.lax.dynamic_slice(x, (i[0, 1], i[1, 1], 0), (1, 2, 4)),
    lambda x, i: jax.vmap(lambda row, j: row.at[j].set(7.0, mode="drop"))(x[:, :, 0], i),
  ],
)
def test_functions_of_places(function, tmp_path):
  check(function, tmp_path, X, INDEX)


def test_whole_numbers_are_divided_as_jax_divides(tmp_path):
  by = np.where(WHOLE[::-1] == 0, 2, WHOLE[::-1])
  check(lambda x, y: (x // y, x % y, jax.lax.div(x, y), jax.lax.rem(x, y)), tmp_path, WHOLE, by)


@pytest.mark.parametrize(
  "function",
  [
    conv,
    lambda x: conv(x, stride=2, pad=0),
    lambda x: window(x, -jnp.inf, jax.lax.max, ((0, 0), (1, 1), (1, 1), (0, 0))),
    lambda x: window(x, 0.0, jax.lax.add, "VALID"),
  ],
)
def test_functions_of_maps(function, tmp_path):
  check(function, tmp_path, MAP)


def boxes(count):
  low = RNG.uniform(0, 40, (count, 2))
  return np.concatenate([low, low + RNG.uniform(4, 30, (count, 2))], 1).astype(np.float32)


@pytest.mark.door
def test_suppression_inside_a_loop(tmp_path):
  """Small sets, whose matrix is iterated to its fixed point."""
  scores = RNG.uniform(size=60).astype(np.float32)

  def batched(given, scores):
    return jax.vmap(lambda b, s: nms(b, s, s > 0.1, 0.5, 20))(given[None], scores[None])

  check(batched, tmp_path, boxes(60), scores)


@pytest.mark.door
@pytest.mark.parametrize("method", ["einsum", "gather"])
def test_roi_align(method, tmp_path):
  rois = boxes(5)

  def pooled(features, rois):
    def one(features, rois):
      return multilevel_roi_align(
        [features], rois, None, 3, [0.125], method=method, batch_axis="images"
      )

    return jax.vmap(one, axis_name="images")(features, rois[None])

  check(pooled, tmp_path, MAP, rois)


def test_what_is_not_known_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"computes erf\(float32\[2,6,4\]\), which .* --format=jax"):
    run(jax.lax.erf, tmp_path, X)


def test_large_constants_are_stored_once_beside_the_model(tmp_path):
  table = RNG.normal(size=(64, 64)).astype(np.float32)
  weights = Weights(tmp_path / "weights.bin")
  sizes = []
  for name in ("a", "b"):
    program = jax.make_jaxpr(lambda x: x @ table + x @ table)(X[0, :, :1] * np.ones((6, 64)))
    model = convert(program, ["x"], ["y"], weights, name)
    sizes.append((len(model.SerializeToString()) < 2000, (tmp_path / "weights.bin").stat().st_size))
  assert sizes == [(True, table.nbytes)] * 2
  assert weights.place(table) == (0, table.nbytes)
