"""Image-level supervision: the pseudo-max score loss L_pms."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def pseudo_max_score(
  logits: Float[Array, "b l c1"], classes: Int[Array, "b l"], valid: Bool[Array, "b l"]
) -> Float[Array, ""]:
  """L_pms (eq. 4): each image label supervises its pseudo box, or another (`loss.ils.boxes`).

  Binary cross-entropy over all C + 1 columns, classes without boxes and the
  background included; summed over columns, averaged over the labels of an image,
  then over images.  An image without labels contributes 0 and still counts.
  """
  target = jax.nn.one_hot(classes, logits.shape[-1])
  per_box = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)
  per_image = jnp.sum(jnp.where(valid, per_box, 0.0), axis=1)
  return jnp.mean(per_image / jnp.maximum(jnp.sum(valid, axis=1), 1))
