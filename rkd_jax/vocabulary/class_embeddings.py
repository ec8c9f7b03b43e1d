"""Text embeddings of class names: the rows of the zero-shot classifier, and their file format.

An .npz holds `names`, `template` (one or several) and `embeddings` [C, d], and may say in `clip`
which CLIP they are of: its place, from the file's folder if it is relative.  A .npy holds the
embeddings, as the published RKD code ships them, with names and templates in a .json of the same
name beside it; without that file it loads too.  Embeddings are as the text tower gives them, like
the published matrices (norms about 10), unless they were averaged or normalised when made.  Rows of
a closed vocabulary (`closed_rows`) are no texts' embeddings: their file knows its own names alone.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from rkd_jax.files import json_checks as checks
from rkd_jax.files import storage
from rkd_jax.files.untrusted.archives import read_arrays, read_arrays_of
from rkd_jax.files.untrusted.reading import reading
from rkd_jax.frozen.clip import FrozenClip
from rkd_jax.ops.host import unit
from rkd_jax.records import class_names as category_names
from rkd_jax.vocabulary import prompts

TEMPLATE = prompts.SINGLE
# In the folder of an own project.
FILE = "class_embeddings.npz"
# Least cosine of a name's embedding with the stored one, which may be a mean over synonyms, for the
# same CLIP; two CLIPs have nothing in common.
_SAME = 0.7
# In place of the template: the rows are those of `closed_rows`.
CLOSED = "closed vocabulary, no CLIP"


class ClassEmbeddings(NamedTuple):
  """Embeddings and what they were made from, which a bare .npy does not say.

  `source` is the CLIP or the file that an .npz had its rows from, where it says so.
  """

  embeddings: Float[np.ndarray, "c d"]
  names: tuple[str, ...] | None
  templates: tuple[str, ...] | None
  clip: str | None = None

  @property
  def is_closed(self) -> bool:
    """Whether there can be no row for any other name, since no CLIP made these."""
    return self.templates == (CLOSED,)


def embed_classes(
  clip: FrozenClip,
  names: Sequence[str],
  template: str | Sequence[str] = TEMPLATE,
  synonyms: Sequence[Sequence[str]] | None = None,
  normalize: bool = False,
) -> Float[np.ndarray, "c d"]:
  """One row per class, float32, for one or several templates (see `prompts`).

  With one template and no synonyms a row is the text tower's output, not normalised unless asked,
  as in the published matrices: the zero-shot classifier divides by the norm itself.  With several
  texts per class a row is the mean of their unit vectors, so that no text counts more for being
  longer (prompt ensembling, arXiv 2103.00020, section 3.1.4).  `synonyms` has for every class the
  texts that stand for its name, the name itself among them if it is to count.

  Raises:
    ValueError: no names, a template without {}, a list of synonyms that is empty or not there, a
      name that the tokenizer refuses, or a model with fewer tokens than the tokenizer.
  """
  templates = (template,) if isinstance(template, str) else tuple(template)
  if not names or not templates:
    raise ValueError("no class names or no templates given; at least one is needed")
  variants = [(name,) for name in names] if synonyms is None else list(synonyms)
  if len(variants) != len(names):
    raise ValueError(f"synonyms: {len(variants)} lists for {len(names)} classes; give one for each")
  for name, row in zip(names, variants):
    if not row:
      raise ValueError(f"synonyms of {name!r}: the list is empty; give at least the name itself")
  texts = [[prompts.fill(t, name) for name in row for t in templates] for row in variants]
  embeddings = clip.embed_texts([text for row in texts for text in row])
  counts = np.array([len(row) for row in texts])
  if (counts > 1).any():
    sums = np.add.reduceat(unit(embeddings), np.cumsum(counts) - counts, axis=0)
    embeddings = sums / counts[:, None].astype(np.float32)
  return unit(embeddings) if normalize else embeddings


def check_same_clip(stored: ClassEmbeddings, clip: FrozenClip, what: str = "The CLIP") -> None:
  """Raises ValueError for another CLIP than that of stored rows, as far as is known.

  The first name is asked, where rows have names and one template.  `what` errors call the CLIP.
  """
  if not stored.names or not stored.templates or len(stored.templates) > 1 or stored.is_closed:
    return
  row = embed_classes(clip, stored.names[:1], stored.templates)
  cosine = float((unit(row) * unit(stored.embeddings[:1])).sum())
  if cosine < _SAME:
    raise ValueError(
      f"{what} is not the one of the detector's class embeddings: for {stored.names[0]!r} they "
      f"have a cosine of {cosine:.3f}. Give the CLIP that the detector was trained with."
    )


def closed_rows(count: int, width: int) -> Float[np.ndarray, "c d"]:
  """Unit rows for classes that no CLIP embeds, always the same for a count and a width.

  They are orthogonal where there are at most as many as dimensions.  More are drawn at random, and
  nearly so: 1,203 in 512 dimensions have cosines below 0.25.
  Raises ValueError: no class or no dimension.
  """
  if count < 1 or width < 1:
    raise ValueError(f"{count} classes in {width} dimensions: expected at least 1 of both.")
  if count <= width:
    return np.eye(count, width, dtype=np.float32)
  rows = np.random.Generator(np.random.PCG64(0)).standard_normal((count, width))
  return unit(rows.astype(np.float32))


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
  template: str | Sequence[str],
  embeddings: Float[np.ndarray, "c d"],
  clip: str | None = None,
) -> None:
  """Writes an .npz, or a .npy with its .json beside it; each file whole or not at all.

  An .npz also says the `source` of the rows.

  Raises ValueError: the path ends in neither, or names and embeddings do not fit.
  """
  path = storage.path(path)
  if path.suffix not in (".npz", ".npy"):
    raise ValueError(f"{path}: class embeddings are saved as .npz or .npy")
  embeddings = _check_array(np.asarray(embeddings), str(path))
  if len(names) != len(embeddings):
    raise ValueError(f"{path}: {len(names)} names for {len(embeddings)} embeddings")
  templates = [template] if isinstance(template, str) else list(template)
  buffer = io.BytesIO()
  if path.suffix == ".npy":
    sidecar = path.with_suffix(".json")
    if sidecar.exists() and _read_sidecar(path) == (None, None):
      raise ValueError(f"{sidecar} holds something else; choose another name for {path.name}")
    # A matrix never stands beside the names of another one.
    path.unlink(missing_ok=True)
    content = {"names": list(names), "templates": templates}
    storage.write(sidecar, json.dumps(content, indent=1) + "\n")
    np.save(buffer, embeddings)
  else:
    arrays = {"names": np.array(names, np.str_), "template": np.array(templates, np.str_)}
    arrays |= {} if clip is None else {"clip": np.array(clip, np.str_)}
    np.savez(buffer, **arrays, embeddings=embeddings)
  storage.write(path, buffer.getvalue())


def load(path: str | os.PathLike, names: Sequence[str] | None = None) -> ClassEmbeddings:
  """Reads an .npz or .npy; `names` are the classes of the rows where the file does not say them.

  Raises:
    ValueError: not a class-embedding file, values that are not finite, or another number of rows
      than of names.
    FileNotFoundError: there is no such file.
  """
  path = storage.path(path)
  try:
    stored = (
      read_arrays_of(path.read_bytes(), path) if storage.is_remote(path) else read_arrays(path)
    )
    if isinstance(stored, np.ndarray):
      result = ClassEmbeddings(stored, *_read_sidecar(path))
    else:
      names, templates = (_texts(stored, key) for key in ("names", "template"))
      clip = _texts(stored, "clip")[0] if "clip" in stored else None
      result = ClassEmbeddings(stored["embeddings"], names, templates, clip)
  except FileNotFoundError:
    raise
  except (KeyError, OSError, ValueError) as error:
    raise ValueError(
      f"{path}: not a class-embedding file ({error}); expected .npz with names, template and"
      " embeddings, or .npy [classes, dimensions]"
    ) from error
  rows = _check_array(result.embeddings, str(path))
  if result.names is not None and len(set(result.names)) != len(result.names):
    twice = next(name for name in result.names if result.names.count(name) > 1)
    raise ValueError(f"{path}: two rows are named {twice!r}; make the file again")
  names = names if result.names is None else result.names
  if names is not None and len(names) != len(rows):
    raise ValueError(
      f"{path}: {len(rows)} rows for {len(names)} class names; make the file again for these"
    )
  return result._replace(embeddings=rows, names=None if names is None else tuple(names))


def _texts(stored: Mapping[str, np.ndarray], key: str) -> tuple[str, ...]:
  """One or several texts of an .npz."""
  if stored[key].dtype.kind != "U" or stored[key].ndim > 1:
    raise ValueError(f"{key} are {stored[key].dtype} {stored[key].shape}, expected texts")
  return tuple(np.atleast_1d(stored[key]).tolist())


def _read_sidecar(path: epath.Path) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
  """Names and templates of a .npy, None for a bare one."""
  sidecar = path.with_suffix(".json")
  if not sidecar.exists():
    return None, None
  with reading(sidecar, "JSON with names and templates", "file of names"):
    content = json.loads(sidecar.read_bytes())
  # Annotations may have the name, too.
  if not isinstance(content, dict) or content.keys() != {"names", "templates"}:
    return None, None
  names, templates = (
    checks.texts(content[key], f"{sidecar}: {key!r}") for key in ("names", "templates")
  )
  return names, templates


def select(
  stored: ClassEmbeddings, names: Sequence[str], where: str | os.PathLike
) -> Float[np.ndarray, "c d"]:
  """The rows of some names, in their order; `where` is what errors call the stored ones.

  Raises ValueError: a name is not there; the nearest that are, and the remedy.
  """
  rows = {category_names.clean_name(name): row for row, name in enumerate(stored.names)}
  names = [category_names.clean_name(name) for name in names]
  for name in names:
    if name not in rows:
      near = category_names.nearest(name, rows)
      hint = f"the nearest are {near}" if near else "none is near"
      raise ValueError(
        f"{where} has no class {name!r} among its {len(rows)}; {hint}. Use a name that it has, or "
        "embed this one: python -m rkd_jax.embed_classes, or --clip."
      )
  return stored.embeddings[[rows[name] for name in names]]
