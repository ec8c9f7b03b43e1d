"""The contrastive loss that trains CLIP."""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int


def _normalize(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
  x = x.astype(jnp.float32)
  # The guard sits inside the root: at a zero row the gradient stays finite.
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def contrastive_loss(
  image_embeddings: Float[Array, "b d"],
  text_embeddings: Float[Array, "b d"],
  logit_scale: Float[Array, ""] | float,
  text_ids: Int[Array, "b *t"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Symmetric InfoNCE over the whole batch, in float32 (CLIP, arXiv 2103.00020, figure 3).

  Args:
    image_embeddings, text_embeddings: row i of one belongs to row i of the other, of any length.
    logit_scale: factor on the cosine, in linear space.
    text_ids: one integer per text, or its token row.  Equal texts are each other's positives: the
      target is spread evenly over them, instead of calling a right pair wrong.

  Returns:
    The mean cross-entropy of both directions, and the share of images and texts, together, whose
    best match is a positive.
  """
  batch = len(image_embeddings)
  logits = logit_scale * _normalize(image_embeddings) @ _normalize(text_embeddings).T
  if text_ids is None:
    same = jnp.eye(batch, dtype=bool)
  else:
    same = (text_ids[:, None] == text_ids[None]).reshape(batch, batch, -1).all(-1)
  # `same` is symmetric, so the targets of the two directions are the same matrix.
  targets = same / same.sum(-1, keepdims=True)
  rows = jnp.arange(batch)
  losses, hits = [], []
  for direction in (logits, logits.T):
    losses.append(-(targets * jax.nn.log_softmax(direction)).sum(-1).mean())
    hits.append(same[rows, direction.argmax(-1)].mean())
  return sum(losses) / 2, sum(hits) / 2  # pyright: ignore[reportReturnType]
