"""Rows of the classifier from what was retrieved: a class is no longer its name alone.

After the linear probe of LP-OVOD (arXiv 2310.17109), a sigmoid classifier of the new classes that
is trained on retrieved regions.  There it is trained on features of the frozen detector, and its
scores are joined with the detector's.  Here it is trained on CLIP's embeddings of the regions,
which the detector's were distilled from, and becomes the row that the detector compares with, mixed
with the text's: the detector stays as it is, and its scores are cosines as before.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.optimize import minimize

from rkd_jax.ops.host import unit
from rkd_jax.pseudo_labels.retrieval import Retrieved

DIRECTIONS = ("mean", "probe")
# Regions that a probe is trained on beside the retrieved ones.
SAMPLE = 10_000
# Of the probe: weight of |w|^2 / 2 beside the mean cross-entropy of a class.
_DECAY = 1e-3
_STEPS = 200


def mix_rows(
  text: Float[np.ndarray, "c d"],
  directions: Float[np.ndarray, "w d"],
  wanted: Sequence[int],
  mix: float,
) -> Float32[np.ndarray, "c d"]:
  """The rows with those of the wanted classes mixed with their directions; lengths stay.

  The row of a class becomes (1 - mix) t + mix d, t its own unit vector and d the direction's,
  brought to the length that it had.

  Raises ValueError: mix is not in [0, 1].
  """
  check_mix(mix)
  rows = np.array(text, np.float32)
  for number, direction in zip(wanted, directions):
    if mix:
      mixed = unit((1 - mix) * unit(np.float64(text[number])) + mix * unit(np.float64(direction)))
      rows[number] = mixed * np.linalg.norm(np.float64(text[number]))
  return rows


def check_mix(mix: float) -> None:
  """Raises ValueError where a part is not between 0 and 1."""
  if not 0 <= mix <= 1:
    raise ValueError(f"mix={mix}: expected 0 (the text's row) to 1 (the regions' alone).")


def mean_directions(retrieved: Retrieved, wanted: Sequence[int]) -> Float32[np.ndarray, "w d"]:
  """Of each class the mean of its regions less that of all regions, as unit vectors.

  Without the second, which all images share, a row would be like every region.  All classes must
  have regions.
  """
  means = [retrieved.best.of(number).embeddings.mean(0) for number in wanted]
  return unit(np.array(means) - retrieved.mean).astype(np.float32)


def probe_directions(retrieved: Retrieved, wanted: Sequence[int]) -> Float32[np.ndarray, "w d"]:
  """Of each class the weights of a sigmoid linear classifier, as unit vectors.

  Positives are its regions.  Negatives are those of the other classes and the sampled regions, but
  for these that are most like the class itself, of which nothing is known.  Both halves have one
  weight together.  All classes must have regions.
  """
  parts = [retrieved.best.of(number).embeddings for number in wanted]
  owners = np.repeat(np.arange(len(wanted)), [len(part) for part in parts])
  columns = np.arange(len(wanted))
  positive = np.concatenate([owners, np.full(len(retrieved.sample), -1)])[:, None] == columns
  like = np.concatenate([np.full(len(owners), -1), retrieved.sample_classes])
  unknown = like[:, None] == np.asarray(wanted)
  return _probe(np.concatenate([*parts, retrieved.sample]), positive, ~positive & ~unknown)


def _probe(
  x: Float[np.ndarray, "n d"], positive: Bool[np.ndarray, "n w"], negative: Bool[np.ndarray, "n w"]
) -> Float32[np.ndarray, "w d"]:
  """Logistic regression of all classes at once, by L-BFGS from zero; the same on every call."""
  x = np.asarray(x, np.float64)
  centre = x.mean(0)
  x = x - centre
  weights = positive / (2 * np.maximum(positive.sum(0), 1)) + negative / (
    2 * np.maximum(negative.sum(0), 1)
  )
  shape = (x.shape[1] + 1, positive.shape[1])

  def objective(flat):
    w, bias = flat.reshape(shape)[:-1], flat.reshape(shape)[-1]
    logits = x @ w + bias
    loss = (weights * (np.logaddexp(0, logits) - positive * logits)).sum()
    slope = weights * (1 / (1 + np.exp(-np.clip(logits, -500, 500))) - positive)
    gradient = np.concatenate([x.T @ slope + _DECAY * w, slope.sum(0)[None]])
    return loss + _DECAY / 2 * (w**2).sum(), gradient.ravel()

  found = minimize(
    objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}
  )
  return unit(found.x.reshape(shape)[:-1].T).astype(np.float32)


def directions(
  kind: str, retrieved: Retrieved, wanted: Sequence[int]
) -> Float32[np.ndarray, "w d"]:
  """Those of a kind of `DIRECTIONS`, for classes that have regions."""
  if kind not in DIRECTIONS:
    raise ValueError(f"direction is {kind!r}; expected one of {', '.join(DIRECTIONS)}.")
  return {"mean": mean_directions, "probe": probe_directions}[kind](retrieved, wanted)


def with_regions(retrieved: Retrieved, wanted: Sequence[int]) -> Int[np.ndarray, "w"]:
  """The classes of those wanted that any region was found for."""
  return np.array([number for number in wanted if retrieved.best.of(number) is not None], np.int64)
