"""Text embeddings of class names: the rows of the zero-shot classifier, and their file format.

A file is an .npz with `names`, `template` and `embeddings` [C, d]; embeddings are as the text tower
gives them, not normalised.  A bare .npy [C, d], as the published RKD code ships, loads too.
"""

import difflib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rkd_jax.clip.batching import map_batches
from rkd_jax.clip.model import Clip
from rkd_jax.clip.tokenizer import Tokenizer

TEMPLATE = "a photo of a {}"
_BATCH_SIZE = 128


class ClassEmbeddings(NamedTuple):
  """Embeddings and what they were made from; the latter is None when read from a bare .npy."""

  embeddings: Float[np.ndarray, "c d"]
  names: tuple[str, ...] | None
  template: str | None


def embed_classes(
  model: Clip,
  variables: Mapping[str, Any],
  tokenizer: Tokenizer,
  names: Sequence[str],
  template: str = TEMPLATE,
) -> Float[np.ndarray, "c d"]:
  """Embeds each name in the template, float32, not normalised.

  Raises:
    ValueError: no names, a template without {}, or a name that the tokenizer refuses.
  """
  if not names:
    raise ValueError("no class names given; at least one is needed")
  if "{}" not in template:
    raise ValueError(f"template {template!r} has no {{}} for the class name")
  tokens = tokenizer([template.replace("{}", name) for name in names])
  encode = jax.jit(
    lambda variables, tokens: model.apply(variables, tokens, method=Clip.encode_text).astype(
      "float32"
    )
  )
  batch_size = min(len(names), _BATCH_SIZE)
  return map_batches(lambda batch: encode(variables, batch), tokens, batch_size)


def _check_array(embeddings: np.ndarray, where: str) -> Float[np.ndarray, "c d"]:
  if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.floating):
    raise ValueError(
      f"{where}: expected floats [classes, dimensions], found {embeddings.dtype} {embeddings.shape}"
    )
  bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
  if len(bad):
    raise ValueError(f"{where}: row {bad[0]} has values that are not finite; make the file again")
  return embeddings.astype(np.float32)


def save(
  path: str | os.PathLike,
  names: Sequence[str],
  template: str,
  embeddings: Float[np.ndarray, "c d"],
) -> None:
  """Writes an .npz, whole or not at all.

  Raises:
    ValueError: the path does not end in .npz, or names and embeddings do not fit.
  """
  path = Path(path)
  if path.suffix != ".npz":
    raise ValueError(f"{path}: class embeddings are saved as .npz")
  embeddings = _check_array(np.asarray(embeddings), str(path))
  if len(names) != len(embeddings):
    raise ValueError(f"{path}: {len(names)} names for {len(embeddings)} embeddings")
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "wb") as file:
      np.savez(file, names=np.array(names, np.str_), template=template, embeddings=embeddings)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike, names: Sequence[str] | None = None) -> ClassEmbeddings:
  """Reads an .npz or .npy; with `names`, checks that the rows are theirs, in their order.

  Of a bare .npy only the number of rows can be checked.

  Raises:
    ValueError: not a class-embedding file, values that are not finite, or other names than
      expected; the first difference is named.
    FileNotFoundError: there is no such file.
  """
  path = Path(path)
  try:
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
      result = ClassEmbeddings(stored, None, None)
    else:
      with stored:
        stored_names = tuple(stored["names"].tolist())
        result = ClassEmbeddings(stored["embeddings"], stored_names, stored["template"].item())
  except FileNotFoundError:
    raise
  except (KeyError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"{path}: not a class-embedding file ({error}); expected .npz with names, template and"
      " embeddings, or .npy [classes, dimensions]"
    ) from error
  result = result._replace(embeddings=_check_array(result.embeddings, str(path)))
  if names is not None:
    _check_names(result, names, path)
  return result


def select(
  stored: ClassEmbeddings, names: Sequence[str], where: str | os.PathLike
) -> Float[np.ndarray, "c d"]:
  """The rows of some names, in their order; `where` is what errors call the stored ones.

  Raises:
    ValueError: a name is not there; the nearest that are, and the remedy.
  """
  rows = {name: row for row, name in enumerate(stored.names)}
  for name in names:
    if name not in rows:
      folded = {known.casefold(): known for known in rows}
      near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
      hint = f"the nearest are {', '.join(repr(folded[match]) for match in near)}"
      raise ValueError(
        f"{where} has no class {name!r} among its {len(rows)}; {hint if near else 'none is near'}."
        " Use a name that it has, or embed this one with a CLIP run (--clip)."
      )
  return stored.embeddings[[rows[name] for name in names]]


def _check_names(stored: ClassEmbeddings, names: Sequence[str], path: Path) -> None:
  if stored.names is not None:
    for row, (found, expected) in enumerate(zip(stored.names, names)):
      if found != expected:
        raise ValueError(
          f"{path}: row {row} is {found!r}, expected {expected!r}; make the file again for these"
          " class names, or put the names in its order"
        )
  if len(stored.embeddings) != len(names):
    raise ValueError(f"{path}: {len(stored.embeddings)} classes, expected {len(names)}")
