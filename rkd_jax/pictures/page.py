"""One HTML file with everything inside: pictures as data, inline CSS, a small script, no address.

A page is a title and sections, which are HTML already; `charts` makes what is in them.  Pictures
can be enlarged by a click, and tables of kind 'sortable' sorted.
"""

import base64
import html
import io
import os
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rkd_jax.files import storage
from rkd_jax.pictures.draw import Picture, png_bytes

_PAGE = Path(__file__).with_suffix(".html")
_JPEG_FROM = 2**17  # pixels; drawings and small pictures stay exact


def write_page(path: str | os.PathLike, title: str, sections: Sequence[str]) -> None:
  """Writes the page whole or not at all; its folder is made if absent."""
  template = string.Template(_PAGE.read_text("utf-8"))
  text = template.substitute(title=html.escape(title), sections="\n".join(sections))
  # What Python cannot encode, parts of names of files, is shown as \udcNN.
  storage.write(path, text.encode("utf-8", "backslashreplace"))


def section(heading: str, summary: str, content: str = "") -> str:
  """A part of the page with its heading and a sentence or two of plain text."""
  return (
    f"<section><h2>{html.escape(heading)}</h2>"
    f'<p class="summary">{html.escape(summary)}</p>{content}</section>'
  )


def notes(paragraphs: Sequence[str]) -> str:
  """Paragraphs of plain text below something."""
  return f'<div class="notes">{"".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)}</div>'


def image(picture: Picture, alt: str, kind: str = "zoom") -> str:
  """A picture: PNG, or JPEG where it is as large as photographs are."""
  height, width = picture.shape[:2]
  if kind == "zoom" and height * width > _JPEG_FROM:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(buffer, "JPEG", quality=82)
    content, mime = buffer.getvalue(), "jpeg"
  else:
    content, mime = png_bytes(picture), "png"
  data = base64.b64encode(content).decode("ascii")
  own = f'class="{kind}" width="{width}" height="{height}" alt="{html.escape(alt)}"'
  tag = f'<img {own} src="data:image/{mime};base64,{data}">'
  return f'<div class="scroll">{tag}</div>' if kind == "wide" else tag


def figure(picture: Picture, caption: str) -> str:
  """A picture that can be enlarged, above its caption."""
  return (
    f"<figure>{image(picture, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"
  )
