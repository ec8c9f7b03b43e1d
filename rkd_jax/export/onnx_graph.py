"""From jaxprs to graphs of ONNX: values, constants, and the bodies of loops and branches.

Shapes are static.  What depends on constants alone is computed here, so that anchors and grids are
stored as they are; loops, scans and branches become ONNX's own, whose bodies read what is outside
them.  Constants of a kilobyte or more go to a file of their own, which several models may share and
which may pass the 2 GB that a model can hold.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Literal
from onnx import TensorProto, helper, numpy_helper

# Numbers in an array that constants are broadcast to: larger ones are broadcast where they are run.
_MOST_FOLDED = 1 << 16
_OUTSIDE = 1024  # bytes from which a constant is stored beside the model

# The name of a tensor, or an array if it is constant.
Value = str | np.ndarray
# Of a graph, an equation and the values of its inputs: those of its outputs, or the only one.
Form = Callable[..., Any]


class Weights:
  """The file beside models that holds their large constants, each once."""

  def __init__(self, file: Path):
    self.file, self._size = file, 0
    self._places: dict[bytes, tuple[int, int]] = {}
    file.write_bytes(b"")

  def place(self, array: np.ndarray) -> tuple[int, int]:
    """Where the array's bytes are: offset, of whole pages, and length."""
    content = np.ascontiguousarray(array).data
    digest = hashlib.sha256(content).digest()
    if digest not in self._places:
      with self.file.open("ab") as file:
        file.write(bytes(-self._size % 4096))
        self._size += -self._size % 4096
        file.write(content)
      self._places[digest] = self._size, content.nbytes
      self._size += content.nbytes
    return self._places[digest]


def described(name: str, aval: Any) -> onnx.ValueInfoProto:
  return helper.make_tensor_value_info(name, type_of(aval.dtype), aval.shape)


def type_of(dtype: Any) -> int:
  return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


@dataclasses.dataclass
class Shared:
  """What a model's graph and the bodies of its loops have in common."""

  weights: Weights
  forms: dict[str, Form]
  initializers: list[TensorProto] = dataclasses.field(default_factory=list)
  numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)
  names: dict[Any, str] = dataclasses.field(default_factory=dict)

  def constant(self, array: np.ndarray) -> str:
    array = np.asarray(array)
    key = (array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array)).digest())
    if key not in self.names:
      self.names[key] = name = f"constant_{next(self.numbers)}"
      self.initializers.append(self._tensor(array, name))
    return self.names[key]

  def _tensor(self, array: np.ndarray, name: str) -> TensorProto:
    if array.nbytes < _OUTSIDE:
      return numpy_helper.from_array(array, name)
    offset, length = self.weights.place(array)
    tensor = TensorProto(name=name, data_type=type_of(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": self.weights.file.name, "offset": offset, "length": length}
    for key, value in place.items():
      tensor.external_data.add(key=key, value=str(value))
    return tensor


class Graph:
  """Nodes in the order of their computation, and the value of each variable of the jaxpr."""

  def __init__(self, shared: Shared):
    self.shared = shared
    self.nodes: list[onnx.NodeProto] = []
    self.values: dict[Any, Value] = {}

  def name(self, value: Value) -> str:
    return value if isinstance(value, str) else self.shared.constant(value)

  def ints(self, *numbers: int) -> str:
    return self.name(np.array(numbers, np.int64))

  def fresh(self) -> str:
    return f"value_{next(self.shared.numbers)}"

  def op(self, kind: str, *inputs: Value, **attributes: Any) -> str:
    return self.ops(kind, 1, *inputs, **attributes)[0]

  def ops(self, kind: str, outputs: int, *inputs: Value, **attributes: Any) -> list[str]:
    names = [self.fresh() for _ in range(outputs)]
    given = [self.name(x) for x in inputs]
    self.nodes.append(helper.make_node(kind, given, names, **attributes))
    return names

  def cast(self, x: Value, dtype: Any) -> str:
    return self.op("Cast", x, to=type_of(dtype))

  def reshape(self, x: Value, shape: Sequence[int]) -> str:
    return self.op("Reshape", x, self.ints(*shape))

  def transpose(self, x: Value, order: Sequence[int]) -> Value:
    order = [int(i) for i in order]
    if order == sorted(order):
      return x
    return x.transpose(order) if isinstance(x, np.ndarray) else self.op("Transpose", x, perm=order)

  def slice(self, x: Value, axis: int, start: int, end: int, step: int = 1) -> str:
    return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

  def run(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value] = ()) -> list[Value]:
    """Adds the nodes of a jaxpr; `args` are the values of its inputs, if they are not known yet."""
    self.values.update(zip(jaxpr.constvars, consts, strict=True))
    if args:
      self.values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
      inputs = [self.read(v) for v in eqn.invars]
      results = self._folded(eqn, inputs)
      if results is None:
        results = self._added(eqn, inputs)
      self.values.update(zip(eqn.outvars, results, strict=True))
    return [self.read(v) for v in jaxpr.outvars]

  def read(self, variable: Any) -> Value:
    if isinstance(variable, Literal):
      aval: Any = variable.aval
      return np.asarray(variable.val, aval.dtype)
    return self.values[variable]

  def _folded(self, eqn: Any, inputs: Sequence[Value]) -> list[np.ndarray] | None:
    """The results of an equation of constants; None of any other."""
    kind = eqn.primitive.name
    if kind in INNER or kind == "platform_index" or any(isinstance(x, str) for x in inputs):
      return None
    large = max((math.prod(v.aval.shape) for v in eqn.outvars), default=0) > _MOST_FOLDED
    if large and kind in ("broadcast_in_dim", "iota"):
      return None
    found = eqn.primitive.bind(*inputs, **eqn.params)
    return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]

  def _added(self, eqn: Any, inputs: Sequence[Value]) -> Sequence[Value]:
    kind = eqn.primitive.name
    form = INNER.get(kind) or self.shared.forms.get(kind)
    if form is None:
      raise unknown(eqn)
    found = form(self, eqn, *inputs)
    return found if isinstance(found, list) else [found]

  def body(self) -> "Graph":
    """An empty graph that reads this one's values, for a loop or a branch."""
    inner = Graph(self.shared)
    inner.values.update(self.values)
    return inner

  def proto(
    self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[tuple[Value, Any]]
  ) -> onnx.GraphProto:
    """The graph as the body of a loop or a branch; outputs are values with their avals."""
    # An output has to be made by a node of the body itself.
    made = [described(self.op("Identity", value), aval) for value, aval in outputs]
    return helper.make_graph(self.nodes, f"body_{self.fresh()}", inputs, made)


def unknown(eqn: Any, form: str = "") -> ValueError:
  shapes = ", ".join(v.aval.str_short() for v in eqn.invars)
  return ValueError(
    f"ONNX: the detector computes {eqn.primitive.name}({shapes}) {form}".rstrip()
    + ", which this export does not know: use --format=jax, or add it to "
    "rkd_jax/export/onnx_primitives.py."
  )


def _inlined(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
  inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
  if isinstance(inner, ClosedJaxpr):
    return graph.run(inner.jaxpr, [np.asarray(c) for c in inner.consts], inputs)
  return graph.run(inner, (), inputs)


def _closed(graph: Graph, jaxpr: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
  return graph.run(jaxpr.jaxpr, [np.asarray(c) for c in jaxpr.consts], inputs)


def _cond(graph: Graph, eqn: Any, which: Value, *inputs: Value) -> list[Value]:
  branches = eqn.params["branches"]
  if isinstance(which, np.ndarray):
    return _closed(graph, branches[min(max(int(which), 0), len(branches) - 1)], inputs)
  if len(branches) != 2:
    raise unknown(eqn, "of several branches")
  bodies = []
  for branch in branches:
    inner = graph.body()
    found = _closed(inner, branch, inputs)
    bodies.append(inner.proto([], list(zip(found, [v.aval for v in eqn.outvars]))))
  return list(
    graph.ops(
      "If",
      len(eqn.outvars),
      graph.cast(which, bool),
      else_branch=bodies[0],
      then_branch=bodies[1],
    )
  )


def _while(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
  p = eqn.params
  conditions, bodies = p["cond_nconsts"], p["body_nconsts"]
  cond_consts, body_consts = inputs[:conditions], inputs[conditions : conditions + bodies]
  state = inputs[conditions + bodies :]
  # Under `jax.vmap` it goes on while any image does; here there is one.
  if math.prod(p["cond_jaxpr"].out_avals[0].shape) != 1:
    raise unknown(eqn, "of several images")
  (first,) = _closed(graph, p["cond_jaxpr"], (*cond_consts, *state))
  inner, avals = graph.body(), [v.aval for v in eqn.outvars]
  names = [graph.fresh() for _ in avals]
  found = _closed(inner, p["body_jaxpr"], (*body_consts, *names))
  (again,) = _closed(inner, p["cond_jaxpr"], (*cond_consts, *found))
  outputs = [(inner.reshape(again, ()), _SCALAR), *zip(found, avals)]
  body = _loop_body(graph, inner, names, avals, outputs)
  first = graph.reshape(first, ())
  return list(graph.ops("Loop", len(avals), "", first, *state, body=body))


_SCALAR = ShapedArray((), np.dtype(bool))


def _loop_body(graph, inner, names, avals, outputs, count: str = ""):
  """The graph of a loop: its count, whether it goes on, and the state."""
  inputs = [
    helper.make_tensor_value_info(count or graph.fresh(), TensorProto.INT64, ()),
    helper.make_tensor_value_info(graph.fresh(), TensorProto.BOOL, ()),
    *(described(name, aval) for name, aval in zip(names, avals)),
  ]
  return inner.proto(inputs, outputs)


def _scan(graph: Graph, eqn: Any, *inputs: Value) -> list[Value]:
  p = eqn.params
  if p["reverse"]:
    raise unknown(eqn, "backwards")
  consts, carried = p["num_consts"], p["num_carry"]
  fixed, state, rows = (
    inputs[:consts],
    inputs[consts : consts + carried],
    inputs[consts + carried :],
  )
  inner, avals, count = graph.body(), [v.aval for v in eqn.outvars], graph.fresh()
  names = [graph.fresh() for _ in state]
  row = [inner.op("Gather", x, count, axis=0) for x in rows]
  found = _closed(inner, p["jaxpr"], (*fixed, *names, *row))
  row_avals = [ShapedArray(a.shape[1:], a.dtype) for a in avals[carried:]]
  outputs = [(np.array(True), _SCALAR), *zip(found, [*avals[:carried], *row_avals])]
  body = _loop_body(graph, inner, names, avals[:carried], outputs, count)
  length = graph.name(np.array(p["length"], np.int64))
  return list(graph.ops("Loop", len(avals), length, np.array(True), *state, body=body))


INNER: dict[str, Form] = {
  **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"), _inlined),
  **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), _inlined),
  "cond": _cond,
  "scan": _scan,
  "while": _while,
}
