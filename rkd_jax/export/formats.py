"""The files of an exported detector in each format, and the folder that holds them.

export.json               what `standalone` needs to know, and with what it was made
README.md, run.py         how to use it, and a program that does, without this package
class_embeddings.npz      the detector's own vocabulary, if it has one with names
detector_HxW.jaxexport    jax: a program for each canvas, for CPUs, GPUs and TPUs, and
weights.safetensors       the parameters that they are given
detector_HxW.onnx         onnx: a model for each canvas, and
weights.bin               the constants that they share
saved_model.pb, ...       savedmodel: one with a signature for each canvas
"""

import contextlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export
from safetensors.numpy import save_file

import rkd_jax
from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.export import programs, standalone
from rkd_jax.export.readme import readme
from rkd_jax.vocabulary import class_embeddings as class_embeddings_lib
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

RUNNER, README = "run.py", "README.md"
Canvas = tuple[int, int]
# The newest StableHLO that TensorFlow 2.21 reads; JAX writes a newer one.
_TENSORFLOW_READS = "1.13.7"


def export(
  detector: OpenVocabularyDetector,
  kind: str,
  output: str | os.PathLike,
  vocabulary: ClassEmbeddings | None = None,
  max_words: int | None = None,
) -> None:
  """Writes the folder of the module's docstring, whole or not at all.

  Args:
    detector: what is exported.
    kind: one of `KINDS`.
    output: a new or empty folder, or one that an export made, which is replaced.
    vocabulary: the words that it is to have; by default the detector's own, if it has any.
    max_words: rows that the program takes, see `programs.words`.

  Raises:
    ValueError: an unknown format, a folder with other files, or what ONNX cannot express.
    ImportError: the format's package is not installed; says how to install it.
  """
  if kind not in KINDS:
    raise ValueError(f"There is no format {kind!r}; there are: {', '.join(KINDS)}.")
  fusion = detector.config.model.test.get("fusion")
  if fusion and fusion.kind:
    raise ValueError(
      f"model.test.fusion.kind is {fusion.kind!r}: exports have the detector's own scores alone. "
      "Give a config in which it is '' (--config=... --config.model.test.fusion.kind=)."
    )
  stored = vocabulary or detector.words.stored
  rows = programs.words(stored, max_words)
  config, own = detector.config, stored if stored is not None and stored.names else None
  with _folder(output) as folder:
    made = KINDS[kind](detector, folder, rows)
    about = {
      "format": standalone.FORMAT,
      "kind": kind,
      "detector": config.name,
      "step": detector.network.step,
      "programs": made,
      "short_side": max(detector.spec.short_sides),
      "max_side": detector.spec.max_side,
      "max_words": rows,
      "embedding_dim": config.model.classifier.embedding_dim,
      "detections": config.model.test.detections,
      "outputs": programs.outputs(config),
      "made_with": {"rkd_jax": rkd_jax.__version__, "jax": jax.__version__},
    }
    if own is not None:
      class_embeddings_lib.save(
        folder / standalone.VOCABULARY, own.names or (), own.templates or (), own.embeddings
      )
    shutil.copyfile(standalone.__file__, folder / RUNNER)
    (folder / README).write_text(readme(about, own))
    (folder / standalone.ABOUT).write_text(json.dumps(about, indent=1) + "\n")


@contextlib.contextmanager
def _folder(output: str | os.PathLike) -> Iterator[Path]:
  """A folder beside `output` that takes its place when the block ends well."""
  place = Path(output).absolute()
  if place.is_file():
    raise ValueError(f"{output} is a file; give the folder that the export is to make.")
  if place.is_dir() and any(place.iterdir()) and not _is_export(place):
    raise ValueError(f"{output} has other files; give a new folder.")
  place.parent.mkdir(parents=True, exist_ok=True)
  partial = Path(tempfile.mkdtemp(prefix=f".{place.name[:100]}.", dir=place.parent))
  try:
    yield partial
    partial.chmod(0o755)
    if place.is_dir():
      shutil.rmtree(place)
    os.replace(partial, place)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _is_export(folder: Path) -> bool:
  about = folder / standalone.ABOUT
  return about.is_file() and standalone.FORMAT in about.read_text(errors="replace")


def _name(canvas: Canvas) -> str:
  return f"detector_{canvas[0]}x{canvas[1]}"


def exported(detector: OpenVocabularyDetector, canvas: Canvas, rows: int) -> jax_export.Exported:
  """The program for all platforms and any number of images."""
  config = detector.config
  (count,) = jax_export.symbolic_shape("b")
  weights = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in programs.params(detector).items()
  }
  call = jax.jit(programs.for_platforms(config))
  given = programs.arguments(config, canvas, rows, count)
  return jax_export.export(call, platforms=programs.PLATFORMS)(weights, *given)


def _write_jax(detector: OpenVocabularyDetector, folder: Path, rows: int) -> list[dict[str, Any]]:
  save_file(programs.params(detector), folder / standalone.WEIGHTS)
  (folder / standalone.WEIGHTS).chmod(0o644)  # it would be the owner's alone
  made = []
  for canvas in programs.canvases(detector):
    file = f"{_name(canvas)}.jaxexport"
    (folder / file).write_bytes(exported(detector, canvas, rows).serialize())
    made.append({"file": file, "canvas": canvas})
  return made


def _write_onnx(detector: OpenVocabularyDetector, folder: Path, rows: int) -> list[dict[str, Any]]:
  try:
    importlib.import_module("onnx")
  except ImportError as error:
    raise ImportError(
      f"--format=onnx needs the packages of ONNX ({error}): pip install 'rkd_jax[onnx]'"
    ) from error
  from rkd_jax.export import onnx_graph, onnx_primitives

  config, made = detector.config, []
  weights = onnx_graph.Weights(folder / "weights.bin")
  call = programs.for_one_image(config, programs.params(detector))
  for canvas in programs.canvases(detector):
    traced = jax.make_jaxpr(call)(*programs.arguments(config, canvas, rows))
    names = programs.INPUTS, programs.outputs(config)
    model = onnx_primitives.convert(traced, *names, weights, _name(canvas))
    file = f"{_name(canvas)}.onnx"
    (folder / file).write_bytes(model.SerializeToString())
    made.append({"file": file, "canvas": canvas})
  return made


def _write_savedmodel(
  detector: OpenVocabularyDetector, folder: Path, rows: int
) -> list[dict[str, Any]]:
  try:
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python import xla
  except ImportError as error:
    raise ImportError(
      f"--format=savedmodel needs TensorFlow ({error}): pip install 'rkd_jax[tf]'"
    ) from error
  weights = programs.params(detector)
  module: Any = tf.Module()
  module.weights = {name: tf.Variable(x, trainable=False) for name, x in weights.items()}
  signatures, made = {}, []
  for canvas in programs.canvases(detector):
    program = exported(detector, canvas, rows)
    signatures[_name(canvas)] = _function(tf, xla, module, program)
    made.append({"signature": _name(canvas), "canvas": canvas})
  tf.saved_model.save(module, os.fspath(folder), signatures=signatures)
  return made


def _function(tf: Any, xla: Any, module: Any, program: jax_export.Exported) -> Any:
  """A program as a function of TensorFlow, whose parameters are the module's variables.

  `jax2tf` would do the same, but writes the newest StableHLO.
  """
  from jax.extend.mlir import ir
  from jax.extend.mlir.dialects import stablehlo

  with ir.Context():
    code = stablehlo.serialize_portable_artifact_str(program.mlir_module(), _TENSORFLOW_READS)
  # Dictionaries are flat in the order of their keys.
  variables = [module.weights[name] for name in sorted(module.weights)]
  described = zip(programs.INPUTS, program.in_avals[len(variables) :], strict=True)

  def shape(aval):
    return [n if isinstance(n, int) else None for n in aval.shape]

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec(shape(a), a.dtype, name) for name, a in described],
  )
  def call(*inputs):
    given = [*variables, *inputs]
    found = xla.call_module(
      [given[i] for i in program.module_kept_var_idx],
      version=program.calling_convention_version,
      module=code,
      Tout=[tf.as_dtype(a.dtype) for a in program.out_avals],
      Sout=[tf.TensorShape(shape(a)) for a in program.out_avals],
      platforms=[platform.upper() for platform in program.platforms],
    )
    return jax.tree.unflatten(program.out_tree, found)

  return call


Writer = Callable[[OpenVocabularyDetector, Path, int], Sequence[dict[str, Any]]]
KINDS: dict[str, Writer] = {
  "jax": _write_jax,
  "onnx": _write_onnx,
  "savedmodel": _write_savedmodel,
}
