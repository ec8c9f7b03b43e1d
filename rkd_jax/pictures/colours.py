"""Colours of classes and instances, and of the text on them."""

import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

# Lightness and chroma in OKLCH: far enough from black and from white to be seen on both.
_SHADES = ((0.62, 0.19), (0.70, 0.15), (0.55, 0.17))
_GOLDEN = 137.50776405003785  # degrees: neighbours in a row are far from each other
# From OKLab to the cube roots of cone responses, and from cone responses to linear sRGB
# (B. Ottosson, 2020, "A perceptual color space for image processing").
_TO_CONES = np.array(
  [
    [1.0, 0.3963377774, 0.2158037573],
    [1.0, -0.1055613458, -0.0638541728],
    [1.0, -0.0894841775, -1.2914855480],
  ]
)
_TO_RGB = np.array(
  [
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
  ]
)


def class_colour(name: str) -> str:
  """The colour of a class, '#rrggbb': the same wherever its name stands, in any list of names."""
  number = zlib.crc32(unicodedata.normalize("NFC", name).casefold().encode("utf-8", "replace"))
  return _oklch(*_SHADES[number % len(_SHADES)], hue=number / 2**32 * 360)


def instance_colours(count: int) -> list[str]:
  """Colours of so many instances, each unlike those before it."""
  return [_oklch(*_SHADES[i % len(_SHADES)], hue=(30 + i * _GOLDEN) % 360) for i in range(count)]


def text_on(colour: str) -> str:
  """'black' or 'white', whichever can be read better on a colour."""
  luminance = _luminance(colour)
  # The contrast of WCAG 2: (lighter + 0.05) / (darker + 0.05).
  return "white" if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else "black"


def contrast(first: str, second: str) -> float:
  """WCAG 2's contrast of two colours, 1 (none) to 21."""
  darker, lighter = sorted((_luminance(first), _luminance(second)))
  return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
  rgb = np.array(ImageColor.getrgb(colour)[:3]) / 255
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return float(linear @ [0.2126, 0.7152, 0.0722])


def _oklch(lightness: float, chroma: float, hue: float) -> str:
  a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
  linear = np.clip(_TO_RGB @ (_TO_CONES @ [lightness, a, b]) ** 3, 0, 1)
  rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return _hex(np.round(rgb * 255).astype(int).tolist())


def _hex(rgb: Sequence[int]) -> str:
  return "#{:02x}{:02x}{:02x}".format(*rgb)
