"""The default initialisation of torch's linear layers, which the originals rely on."""

from collections.abc import Callable

import flax.linen as nn
import jax

# kaiming_uniform(a=sqrt(5)): uniform within +-1/sqrt(fan_in).
torch_kernel = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable:
  """Uniform within +-1/sqrt(fan_in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=float):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
