"""Convolution in the form that suits the platform.

XLA's CPU convolution is as fast as a matrix product for 3x3 kernels on large maps, but not

* for 1x1 kernels: one half to a third of the speed of the product of the pixels with the kernel;
* on small maps of many channels, such as those of RoIs in a ResNet's last stage: 3x3 kernels on 7x7
  cells took 1.3 to 1.6 times the CPU time of one product for each tap of the kernel with the cells
  that it meets, which leaves out the border besides (a sixth of the arithmetic);
* for the gradient to the kernel, which it treats as a convolution with a kernel as large as the
  map: 1x1 kernels took 6 to 12 times, 3x3 kernels 1.4 to 2.7 times the CPU time of one product of
  the shifted input with the output's gradient for each tap of the kernel.

All at the sizes of a ResNet-50 on 800-pixel images.  On a CPU these are therefore matrix products.
Elsewhere 1x1 kernels are, too: a TPU's compiler lays out the maps of small batches of convolutions
with copies between (by its estimate a seventh of the trunk's time).

A TPU's convolution wants eight images at once.  From fewer its compiler makes more by cutting maps
into columns, with copies that take up to twice the convolution's time.  Cut here into bands of
rows, which lie in memory one after the other, four maps of 200x336 cells and 256 channels with a
3x3 kernel between two of 1x1 take 15 instead of 26 ms, forward and backward (v5e, by the compiler's
estimate).

The rest are the convolution and the derivative that JAX finds.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rkd_jax.machine import target
from rkd_jax.structures import Arr

# Of cells a side and of channels: where a product for each tap is faster than a convolution.
_SMALL_MAP = 16
_MANY_CHANNELS = 256
# Images that a TPU's convolution takes at once, and rows of a band at most.
_AT_ONCE = 8
_BAND_ROWS = 32


def _convolution(x, kernel, stride, rows_too=True):
  """Convolution with zeros on both sides of the map and, if `rows_too`, above and below it."""
  pad = (kernel.shape[0] - 1) // 2
  zeros = [(pad, pad) if rows_too else (0, 0), (pad, pad)]
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), zeros, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _product(x, kernel, stride):
  """Convolution with a 1x1 kernel."""
  x = x[:, ::stride, ::stride]
  if target.current().platform != "cpu":
    # Not as matrices: the order of their rows would be one that a TPU has to copy maps into.
    return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
  y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0])
  return y.reshape(*x.shape[:-1], -1)


def _products_of_taps(x, kernel):
  """Convolution of stride 1 without the border: each tap meets only cells of the map."""
  height, width = x.shape[1:3]
  x = x.transpose(1, 2, 0, 3)
  pad = (kernel.shape[0] - 1) // 2
  y = 0
  for i, j in itertools.product(range(-pad, pad + 1), repeat=2):
    part = x[max(i, 0) : height + i, max(j, 0) : width + j]
    product = jnp.matmul(part.reshape(-1, part.shape[-1]), kernel[pad + i, pad + j])
    product = product.reshape(*part.shape[:-1], -1)
    y += jnp.pad(product, ((max(-i, 0), max(i, 0)), (max(-j, 0), max(j, 0)), (0, 0), (0, 0)))
  return y.transpose(2, 0, 1, 3)  # pyright: ignore[reportAttributeAccessIssue]


def _number_of_bands(x, kernel):
  """The bands that each image of `x` is cut into, 1 for images as they are."""
  images, rest = divmod(x.shape[0], target.devices_that_share())
  if target.current().platform != "tpu" or rest or images >= _AT_ONCE or kernel.shape[0] % 2 == 0:
    return 1
  bands = step = _AT_ONCE // math.gcd(images, _AT_ONCE)
  while bands * _BAND_ROWS < x.shape[1]:
    bands += step
  return bands if bands <= x.shape[1] else 1


def _in_bands(kernel, x, bands):
  """Convolution of stride 1 of the bands of rows of each image, as of many small images."""
  images, height, width, channels = x.shape
  rows, pad = -(-height // bands), (kernel.shape[0] - 1) // 2
  x = jnp.pad(x, ((0, 0), (pad, pad + bands * rows - height), (0, 0), (0, 0)))
  x = jnp.stack([x[:, i * rows : (i + 1) * rows + 2 * pad] for i in range(bands)])
  x = x.reshape(bands * images, rows + 2 * pad, width, channels)
  y = _convolution(x, kernel, 1, rows_too=False)
  y = y.reshape(bands, images, rows, width, -1).swapaxes(0, 1)
  return y.reshape(images, bands * rows, width, -1)[:, :height]


def _stride_one(x, kernel):
  if (bands := _number_of_bands(x, kernel)) > 1:
    return target.on_each_device(partial(_in_bands, bands=bands), kernel, x)
  size, *channels = kernel.shape[1:]
  # Each tap must meet a cell of the map.
  small = size <= min(x.shape[1:3]) and max(x.shape[1:3]) <= _SMALL_MAP
  if not small or size % 2 == 0 or min(channels) < _MANY_CHANNELS:
    return _convolution(x, kernel, 1)
  return jax.lax.platform_dependent(
    x, kernel, cpu=_products_of_taps, default=partial(_convolution, stride=1)
  )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(
  x: Float[Arr, "b h w c"], kernel: Float[Arr, "k k c d"], stride: int = 1
) -> Float[Array, "b h2 w2 d"]:
  """Cross-correlation with (k - 1) // 2 rows and columns of zeros around the image."""
  if kernel.shape[0] == 1:
    return _product(x, kernel, stride)
  return _stride_one(x, kernel) if stride == 1 else _convolution(x, kernel, stride)


def _forward(x, kernel, stride):
  return conv(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
  x, kernel = residuals
  form = _product if kernel.shape[0] == 1 else _convolution

  def derivative(x, kernel, gradient):
    return jax.linear_transpose(lambda kernel: form(x, kernel, stride), kernel)(gradient)[0]

  def products(x, kernel, gradient):
    return _kernel_gradient(x, gradient, kernel.shape[0], stride).astype(kernel.dtype)

  to_kernel = jax.lax.platform_dependent(x, kernel, gradient, cpu=products, default=derivative)
  if form is _convolution and stride == 1 and kernel.shape[0] % 2:
    to_x = _stride_one(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  else:
    to_x = jax.linear_transpose(lambda x: form(x, kernel, stride), x)(gradient)[0]
  return to_x, to_kernel


conv.defvjp(_forward, _backward)


def _kernel_gradient(x, gradient, size, stride):
  """One matrix product per tap of the kernel; float32 [k, k, c, d]."""
  pad = (size - 1) // 2
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  count, height, width, channels = gradient.shape
  window = (count, stride * (height - 1) + 1, stride * (width - 1) + 1, x.shape[-1])
  gradient = gradient.reshape(-1, channels)

  def tap(index):
    shifted = jax.lax.dynamic_slice(x, (0, index // size, index % size, 0), window)
    # As matrices: XLA would write transposed copies of arrays with three contracted axes.
    shifted = shifted[:, ::stride, ::stride].reshape(-1, x.shape[-1])
    return jax.lax.dot_general(
      shifted, gradient, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )

  # One after the other, since XLA would hold all the shifted inputs at once.
  taps = jax.lax.map(tap, jnp.arange(size * size))
  return taps.reshape(size, size, *taps.shape[1:])
