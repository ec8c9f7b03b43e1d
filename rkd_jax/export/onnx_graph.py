"""From a jaxpr to an ONNX model: the primitives that detectors are made of, and no others.

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

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Literal
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
# Models say that they are of this version of the format, which runtimes know since 2023.
_IR_VERSION = 9
# Numbers in an array that constants are broadcast to: larger ones are broadcast where they are run.
_MOST_FOLDED = 1 << 16
_OUTSIDE = 1024  # bytes from which a constant is stored beside the model

_Value = str | np.ndarray

_UNARY = {
  "abs": "Abs",
  "ceil": "Ceil",
  "exp": "Exp",
  "floor": "Floor",
  "log": "Log",
  "logistic": "Sigmoid",
  "neg": "Neg",
  "not": "Not",
  "sign": "Sign",
  "sqrt": "Sqrt",
  "tanh": "Tanh",
  **dict.fromkeys(("copy", "copy_p", "stop_gradient", "optimization_barrier"), "Identity"),
}
_BINARY = {
  "add": "Add",
  "add_any": "Add",
  "and": "And",
  "div": "Div",
  "eq": "Equal",
  "ge": "GreaterOrEqual",
  "gt": "Greater",
  "le": "LessOrEqual",
  "lt": "Less",
  "max": "Max",
  "min": "Min",
  "mul": "Mul",
  "or": "Or",
  "pow": "Pow",
  "sub": "Sub",
}
_REDUCTIONS = {
  "reduce_max": "ReduceMax",
  "reduce_min": "ReduceMin",
  "reduce_sum": "ReduceSum",
  "reduce_or": "ReduceMax",
  "reduce_and": "ReduceMin",
}


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


def convert(
  program: ClosedJaxpr,
  inputs: Sequence[str],
  outputs: Sequence[str],
  weights: Weights,
  name: str,
) -> onnx.ModelProto:
  """The model of a program whose inputs and outputs are to have these names.

  Raises:
    ValueError: the program has a primitive, or a form of one, that is not known here.
  """
  shared = _Shared(weights)
  graph = _Graph(shared)
  for input_name, var in zip(inputs, program.jaxpr.invars, strict=True):
    graph.values[var] = input_name
  found = graph.run(program.jaxpr, [np.asarray(c) for c in program.consts])
  for output_name, value in zip(outputs, found, strict=True):
    graph.nodes.append(helper.make_node("Identity", [graph.name(value)], [output_name]))
  signature = [
    [_described(n, var.aval) for n, var in zip(names, variables)]
    for names, variables in (
      (inputs, program.jaxpr.invars),
      (outputs, program.jaxpr.outvars),
    )
  ]
  proto = helper.make_graph(graph.nodes, name, *signature, initializer=shared.initializers)
  opset = [helper.make_opsetid("", OPSET)]
  return helper.make_model(
    proto, opset_imports=opset, ir_version=_IR_VERSION, producer_name="rkd_jax"
  )


def _described(name: str, aval: Any) -> onnx.ValueInfoProto:
  return helper.make_tensor_value_info(name, _type(aval.dtype), aval.shape)


def _type(dtype: Any) -> int:
  return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


@dataclasses.dataclass
class _Shared:
  """What a model's graph and the bodies of its loops have in common."""

  weights: Weights
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
    tensor = TensorProto(name=name, data_type=_type(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {"location": self.weights.file.name, "offset": offset, "length": length}
    for key, value in place.items():
      tensor.external_data.add(key=key, value=str(value))
    return tensor


class _Graph:
  """Nodes in the order of their computation, and the value of each variable of the jaxpr.

  A value is the name of a tensor, or an array if it is constant.
  """

  def __init__(self, shared: _Shared):
    self.shared = shared
    self.nodes: list[onnx.NodeProto] = []
    self.values: dict[Any, _Value] = {}

  def name(self, value: _Value) -> str:
    return value if isinstance(value, str) else self.shared.constant(value)

  def ints(self, *numbers: int) -> str:
    return self.name(np.array(numbers, np.int64))

  def fresh(self) -> str:
    return f"value_{next(self.shared.numbers)}"

  def op(self, kind: str, *inputs: _Value, **attributes: Any) -> str:
    return self.ops(kind, 1, *inputs, **attributes)[0]

  def ops(self, kind: str, outputs: int, *inputs: _Value, **attributes: Any) -> list[str]:
    names = [self.fresh() for _ in range(outputs)]
    given = [self.name(x) for x in inputs]
    self.nodes.append(helper.make_node(kind, given, names, **attributes))
    return names

  def cast(self, x: _Value, dtype: Any) -> str:
    return self.op("Cast", x, to=_type(dtype))

  def reshape(self, x: _Value, shape: Sequence[int]) -> str:
    return self.op("Reshape", x, self.ints(*shape))

  def transpose(self, x: _Value, order: Sequence[int]) -> _Value:
    order = [int(i) for i in order]
    if order == sorted(order):
      return x
    return x.transpose(order) if isinstance(x, np.ndarray) else self.op("Transpose", x, perm=order)

  def slice(self, x: _Value, axis: int, start: int, end: int, step: int = 1) -> str:
    return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

  def run(self, jaxpr: Any, consts: Sequence[_Value], args: Sequence[_Value] = ()) -> list[_Value]:
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

  def read(self, variable: Any) -> _Value:
    if isinstance(variable, Literal):
      return np.asarray(variable.val, variable.aval.dtype)
    return self.values[variable]

  def _folded(self, eqn: Any, inputs: Sequence[_Value]) -> list[np.ndarray] | None:
    """The results of an equation of constants; None of any other."""
    kind = eqn.primitive.name
    if kind in _INNER or kind == "platform_index" or any(isinstance(x, str) for x in inputs):
      return None
    large = max((math.prod(v.aval.shape) for v in eqn.outvars), default=0) > _MOST_FOLDED
    if large and kind in ("broadcast_in_dim", "iota"):
      return None
    found = eqn.primitive.bind(*inputs, **eqn.params)
    return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]

  def _added(self, eqn: Any, inputs: Sequence[_Value]) -> Sequence[_Value]:
    kind = eqn.primitive.name
    boolean = bool(eqn.invars) and eqn.invars[0].aval.dtype == bool
    if kind in ("and", "or", "not") and not boolean:
      raise _unknown(eqn, "of bits")
    if kind in _UNARY:
      return [self.op(_UNARY[kind], *inputs)]
    if kind in _BINARY:
      return [self.op(_BINARY[kind], *inputs)]
    if kind in _REDUCTIONS:
      x = self.cast(inputs[0], np.int32) if boolean else inputs[0]
      y = self.op(_REDUCTIONS[kind], x, self.ints(*eqn.params["axes"]), keepdims=0)
      return [self.cast(y, bool) if boolean else y]
    if kind not in _FORMS:
      raise _unknown(eqn)
    found = _FORMS[kind](self, eqn, *inputs)
    return found if isinstance(found, list) else [found]

  def body(self) -> "_Graph":
    """An empty graph that reads this one's values, for a loop or a branch."""
    inner = _Graph(self.shared)
    inner.values.update(self.values)
    return inner

  def proto(
    self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[tuple[_Value, Any]]
  ) -> onnx.GraphProto:
    """The graph as the body of a loop or a branch; outputs are values with their avals."""
    described = []
    for value, aval in outputs:
      # An output has to be made by a node of the body itself.
      described.append(_described(self.op("Identity", value), aval))
    return helper.make_graph(self.nodes, f"body_{self.fresh()}", inputs, described)


def _unknown(eqn: Any, form: str = "") -> ValueError:
  shapes = ", ".join(v.aval.str_short() for v in eqn.invars)
  return ValueError(
    f"ONNX: the detector computes {eqn.primitive.name}({shapes}) {form}".rstrip()
    + ", which this export does not know: use --format=jax, or add it to "
    "rkd_jax/export/onnx_graph.py."
  )


def _reshaped(graph: _Graph, eqn: Any, x: _Value) -> str:
  return graph.reshape(x, eqn.outvars[0].aval.shape)


def _broadcast(graph: _Graph, eqn: Any, x: _Value) -> str:
  shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
  ones = [1] * len(shape)
  for axis, length in zip(dims, eqn.invars[0].aval.shape, strict=True):
    ones[axis] = length
  x = graph.reshape(x, ones)
  return x if tuple(ones) == tuple(shape) else graph.op("Expand", x, graph.ints(*shape))


def _iota(graph: _Graph, eqn: Any) -> str:
  shape, axis = eqn.params["shape"], eqn.params["dimension"]
  counted = np.arange(shape[axis], dtype=eqn.params["dtype"])
  line = counted.reshape([-1 if i == axis else 1 for i in range(len(shape))])
  return graph.op("Expand", line, graph.ints(*shape))


def _select(graph: _Graph, eqn: Any, which: _Value, no: _Value, *yes: _Value) -> str:
  if len(yes) != 1 or eqn.invars[0].aval.dtype != bool:
    raise _unknown(eqn, "of several cases")
  if eqn.outvars[0].aval.dtype != bool:
    return graph.op("Where", which, yes[0], no)
  kept = graph.op("And", which, yes[0])
  return graph.op("Or", kept, graph.op("And", graph.op("Not", which), no))


def _clamp(graph: _Graph, eqn: Any, low: _Value, x: _Value, high: _Value) -> str:
  return graph.op("Min", graph.op("Max", x, low), high)


def _pad(graph: _Graph, eqn: Any, x: _Value, value: _Value) -> str:
  low, high, between = zip(*eqn.params["padding_config"])
  if any(between):
    raise _unknown(eqn, "between the elements")
  boolean = eqn.invars[0].aval.dtype == bool
  x, value = (graph.cast(v, np.int32) if boolean else v for v in (x, value))
  y = graph.op("Pad", x, graph.ints(*low, *high), value)
  return graph.cast(y, bool) if boolean else y


def _sliced(graph: _Graph, eqn: Any, x: _Value) -> str:
  p, axes = eqn.params, range(eqn.invars[0].aval.ndim)
  bounds = (p["start_indices"], p["limit_indices"], axes, p["strides"] or [1] * len(axes))
  return graph.op("Slice", x, *(graph.ints(*numbers) for numbers in bounds))


def _over_images(graph: _Graph, eqn: Any, x: _Value) -> str:
  """The largest of what the images of a `jax.vmap` have, which is an axis."""
  axes = eqn.params["axes"]
  if not all(isinstance(axis, int) for axis in axes):
    raise _unknown(eqn, "over devices")
  return graph.op("ReduceMax", x, graph.ints(*axes), keepdims=0)


def _reversed(graph: _Graph, eqn: Any, x: _Value) -> str:
  axes = eqn.params["dimensions"]
  before = np.iinfo(np.int64).min  # the end of what begins at the last and goes down
  ends = (graph.ints(*[n] * len(axes)) for n in (-1, before))
  return graph.op("Slice", x, *ends, graph.ints(*axes), graph.ints(*[-1] * len(axes)))


def _dynamic_slice(graph: _Graph, eqn: Any, x: _Value, *starts: _Value) -> str:
  sizes, shape = eqn.params["slice_sizes"], eqn.invars[0].aval.shape
  first = graph.op("Concat", *(graph.reshape(graph.cast(s, np.int64), [1]) for s in starts), axis=0)
  last = np.array([n - size for n, size in zip(shape, sizes)], np.int64)
  first = graph.op("Min", graph.op("Max", first, np.zeros_like(last)), last)
  end = graph.op("Add", first, np.array(sizes, np.int64))
  return graph.op("Slice", x, first, end, graph.ints(*range(len(shape))))


def _conv(graph: _Graph, eqn: Any, x: _Value, kernel: _Value) -> _Value:
  p = eqn.params
  numbers = p["dimension_numbers"]
  if any(d != 1 for d in p["lhs_dilation"]) or p["batch_group_count"] != 1:
    raise _unknown(eqn, "transposed")
  low, high = zip(*p["padding"])
  y = graph.op(
    "Conv",
    graph.transpose(x, numbers.lhs_spec),
    graph.transpose(kernel, numbers.rhs_spec),
    strides=p["window_strides"],
    pads=[*low, *high],
    dilations=p["rhs_dilation"],
    group=p["feature_group_count"],
  )
  return graph.transpose(y, np.argsort(numbers.out_spec))


def _window(graph: _Graph, eqn: Any, x: _Value) -> _Value:
  """Sums or maxima over windows of the two axes before the last."""
  p, total = eqn.params, eqn.primitive.name == "reduce_window_sum"
  size, strides, padding = (p[key] for key in ("window_dimensions", "window_strides", "padding"))
  outer = (size[0], size[-1], strides[0], strides[-1], *padding[0], *padding[-1])
  dilated = {*p["base_dilation"], *p["window_dilation"]} != {1}
  if len(size) != 4 or outer != (1,) * 4 + (0,) * 4 or dilated:
    raise _unknown(eqn, "over other axes than rows and columns")
  low, high = zip(*padding[1:3])
  settings = {"kernel_shape": size[1:3], "strides": strides[1:3], "pads": [*low, *high]}
  x = graph.transpose(x, (0, 3, 1, 2))
  if total:
    y = graph.op("AveragePool", x, count_include_pad=1, **settings)
    y = graph.op("Mul", y, np.array(math.prod(size), np.float32))
  else:
    y = graph.op("MaxPool", x, **settings)
  return graph.transpose(y, (0, 2, 3, 1))


def _dot(graph: _Graph, eqn: Any, a: _Value, b: _Value) -> str:
  """A product of matrices for each of the axes that both have."""
  (contract_a, contract_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
  shape_a, shape_b = (v.aval.shape for v in eqn.invars)
  free_a, free_b = (
    [i for i in range(len(shape)) if i not in (*contract, *batch)]
    for shape, contract, batch in (
      (shape_a, contract_a, batch_a),
      (shape_b, contract_b, batch_b),
    )
  )
  a = graph.transpose(a, (*batch_a, *free_a, *contract_a))
  b = graph.transpose(b, (*batch_b, *contract_b, *free_b))
  batch = [shape_a[i] for i in batch_a]
  rows, inner, columns = (
    math.prod(shape[i] for i in axes)
    for shape, axes in ((shape_a, free_a), (shape_a, contract_a), (shape_b, free_b))
  )
  together = [math.prod(batch)] if batch else []
  a, b = graph.reshape(a, [*together, rows, inner]), graph.reshape(b, [*together, inner, columns])
  return graph.reshape(graph.op("MatMul", a, b), eqn.outvars[0].aval.shape)


def _top_k(graph: _Graph, eqn: Any, x: _Value) -> list[_Value]:
  if eqn.params["axis"] != eqn.invars[0].aval.ndim - 1:
    raise _unknown(eqn, "along another axis than the last")
  values, index = graph.ops("TopK", 2, x, graph.ints(eqn.params["k"]))
  return [values, graph.cast(index, eqn.outvars[1].aval.dtype)]


def _sort(graph: _Graph, eqn: Any, key: _Value, *others: _Value) -> list[_Value]:
  """Of equal keys the first comes first, as in a stable sort."""
  axis, shape = eqn.params["dimension"], eqn.invars[0].aval.shape
  if eqn.params["num_keys"] != 1:
    raise _unknown(eqn, "by several keys")
  values, index = graph.ops("TopK", 2, key, graph.ints(shape[axis]), axis=axis, largest=0)
  return [values, *(graph.op("GatherElements", x, index, axis=axis) for x in others)]


def _gather(graph: _Graph, eqn: Any, x: _Value, index: _Value) -> _Value:
  """Whole slices at places along one axis, for each row of a first axis that both may have."""
  numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
  places, batching = eqn.invars[1].aval.shape[:-1], tuple(map(int, numbers.operand_batching_dims))
  axes = tuple(map(int, numbers.start_index_map))
  whole = all(
    size == shape[i]
    for i, size in enumerate(eqn.params["slice_sizes"])
    if i not in (*axes, *batching)
  )
  rows = batching == (0,) and axes == (1,)
  if (
    not whole
    or numbers.collapsed_slice_dims != axes
    or len(axes) != 1
    or not (rows or not batching)
  ):
    raise _unknown(eqn, "of parts of slices")
  (axis,) = axes
  index = graph.cast(index, np.int64)
  inside = np.array(shape[axis] - 1, np.int64)
  clipped = graph.op("Min", graph.op("Max", index, np.array(0, np.int64)), inside)
  # What the result's axes are: places are numbers, axes of the operand are counted below 0.
  order = list(range(len(places)))
  others = [-1 - i for i in range(len(shape)) if i != axis and i not in batching]
  if rows:
    y, found = graph.op("GatherND", x, clipped, batch_dims=1), [*order, *others]
  else:
    y = graph.op("Gather", x, graph.reshape(clipped, places), axis=axis)
    found = [*others[:axis], *order, *others[axis:]]
  offsets = tuple(map(int, numbers.offset_dims))
  wanted: list[int] = []
  left, right = iter(order), iter(others)
  for position in range(len(found)):
    wanted.append(next(right) if position in offsets else next(left))
  y = graph.transpose(y, [found.index(i) for i in wanted])
  if eqn.params["mode"] != jax.lax.GatherScatterMode.FILL_OR_DROP:
    return y
  there = graph.op("Equal", index, clipped)
  there = graph.reshape(
    there, [1 if i in offsets else n for i, n in enumerate(eqn.outvars[0].aval.shape)]
  )
  dtype = eqn.outvars[0].aval.dtype
  if eqn.params["fill_value"] is None or dtype == bool:
    raise _unknown(eqn, "with a default")
  return graph.op("Where", there, y, np.array(eqn.params["fill_value"], dtype))


def _scatter(graph: _Graph, eqn: Any, x: _Value, index: _Value, updates: _Value) -> _Value:
  """Numbers at places along the last axis; those of places beyond its end are dropped."""
  numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
  last = len(shape) - 1
  axes = tuple(map(int, numbers.scatter_dims_to_operand_dims))
  if axes != (last,):
    raise _unknown(eqn, "along another axis than the last")
  if not numbers.inserted_window_dims:
    if not isinstance(index, np.ndarray) or eqn.primitive.name != "scatter":
      raise _unknown(eqn, "of slices")
    start, length = int(index.reshape(())), eqn.invars[2].aval.shape[-1]
    parts = [
      graph.slice(x, last, 0, start),
      graph.name(updates),
      graph.slice(x, last, start + length, shape[-1]),
    ]
    return graph.op("Concat", *parts, axis=last)
  rows = tuple(map(int, numbers.operand_batching_dims)) == tuple(range(last))
  if not rows or eqn.invars[2].aval.ndim != len(shape):
    raise _unknown(eqn, "of rows")
  # One place more, for what is dropped.
  end = np.array(shape[-1], np.int64)
  index = graph.reshape(graph.cast(index, np.int64), eqn.invars[2].aval.shape)
  index = graph.op("Min", index, end)
  extra = np.zeros((*shape[:-1], 1), eqn.invars[0].aval.dtype)
  x = graph.op("Concat", x, extra, axis=last)
  how = {"reduction": "add"} if eqn.primitive.name == "scatter-add" else {}
  y = graph.op("ScatterElements", x, index, updates, axis=last, **how)
  return graph.slice(y, last, 0, shape[-1])


def _inlined(graph: _Graph, eqn: Any, *inputs: _Value) -> list[_Value]:
  inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
  if isinstance(inner, ClosedJaxpr):
    return graph.run(inner.jaxpr, [np.asarray(c) for c in inner.consts], inputs)
  return graph.run(inner, (), inputs)


def _closed(graph: _Graph, jaxpr: ClosedJaxpr, inputs: Sequence[_Value]) -> list[_Value]:
  return graph.run(jaxpr.jaxpr, [np.asarray(c) for c in jaxpr.consts], inputs)


def _cond(graph: _Graph, eqn: Any, which: _Value, *inputs: _Value) -> list[_Value]:
  branches = eqn.params["branches"]
  if isinstance(which, np.ndarray):
    return _closed(graph, branches[min(max(int(which), 0), len(branches) - 1)], inputs)
  if len(branches) != 2:
    raise _unknown(eqn, "of several branches")
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


def _while(graph: _Graph, eqn: Any, *inputs: _Value) -> list[_Value]:
  p = eqn.params
  conditions, bodies = p["cond_nconsts"], p["body_nconsts"]
  cond_consts, body_consts = inputs[:conditions], inputs[conditions : conditions + bodies]
  state = inputs[conditions + bodies :]
  # Under `jax.vmap` it goes on while any image does; here there is one.
  if math.prod(p["cond_jaxpr"].out_avals[0].shape) != 1:
    raise _unknown(eqn, "of several images")
  (first,) = _closed(graph, p["cond_jaxpr"], (*cond_consts, *state))
  inner, avals = graph.body(), [v.aval for v in eqn.outvars]
  names = [graph.fresh() for _ in avals]
  found = _closed(inner, p["body_jaxpr"], (*body_consts, *names))
  (again,) = _closed(inner, p["cond_jaxpr"], (*cond_consts, *found))
  outputs = [(inner.reshape(again, ()), _SCALAR), *zip(found, avals)]
  body = _loop_body(graph, inner, names, avals, outputs)
  first = graph.reshape(first, ())
  return list(graph.ops("Loop", len(avals), "", first, *state, body=body))


_SCALAR = jax.core.ShapedArray((), np.dtype(bool))


def _loop_body(graph, inner, names, avals, outputs, count: str = ""):
  """The graph of a loop: its count, whether it goes on, and the state."""
  inputs = [
    helper.make_tensor_value_info(count or graph.fresh(), TensorProto.INT64, ()),
    helper.make_tensor_value_info(graph.fresh(), TensorProto.BOOL, ()),
    *(_described(name, aval) for name, aval in zip(names, avals)),
  ]
  return inner.proto(inputs, outputs)


def _scan(graph: _Graph, eqn: Any, *inputs: _Value) -> list[_Value]:
  p = eqn.params
  if p["reverse"]:
    raise _unknown(eqn, "backwards")
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
  row_avals = [jax.core.ShapedArray(a.shape[1:], a.dtype) for a in avals[carried:]]
  outputs = [(np.array(True), _SCALAR), *zip(found, [*avals[:carried], *row_avals])]
  body = _loop_body(graph, inner, names, avals[:carried], outputs, count)
  length = graph.name(np.array(p["length"], np.int64))
  return list(graph.ops("Loop", len(avals), length, np.array(True), *state, body=body))


def _integer_pow(graph: _Graph, eqn: Any, x: _Value) -> str:
  return graph.op("Pow", x, np.array(eqn.params["y"], eqn.outvars[0].aval.dtype))


def _split(graph: _Graph, eqn: Any, x: _Value) -> list[_Value]:
  axis, ends = eqn.params["axis"], [*itertools.accumulate(eqn.params["sizes"], initial=0)]
  return [graph.slice(x, axis, *bounds) for bounds in itertools.pairwise(ends)]


def _stack(graph: _Graph, eqn: Any, *parts: _Value) -> str:
  axis = eqn.params["axis"]
  shape = [1 if i == axis else n for i, n in enumerate(eqn.outvars[0].aval.shape)]
  return graph.op("Concat", *(graph.reshape(x, shape) for x in parts), axis=axis)


def _cumsum(graph: _Graph, eqn: Any, x: _Value) -> str:
  axis = np.array(eqn.params["axis"], np.int64)
  return graph.op("CumSum", x, axis, reverse=int(eqn.params["reverse"]))


def _is_finite(graph: _Graph, eqn: Any, x: _Value) -> str:
  return graph.op("Not", graph.op("Or", graph.op("IsNaN", x), graph.op("IsInf", x)))


def _default_platform(graph: _Graph, eqn: Any) -> np.ndarray:
  """Which of the forms for different platforms: that for any."""
  return np.array(len(eqn.params["platforms"]) - 1, np.int32)


_INNER: dict[str, Callable[..., Any]] = {
  **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"), _inlined),
  **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), _inlined),
  "cond": _cond,
  "scan": _scan,
  "while": _while,
}
_FORMS: dict[str, Callable[..., Any]] = {
  **_INNER,
  **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshaped),
  **dict.fromkeys(("reduce_window_sum", "reduce_window_max"), _window),
  **dict.fromkeys(("scatter", "scatter-add"), _scatter),
  "broadcast_in_dim": _broadcast,
  "clamp": _clamp,
  "concatenate": lambda g, e, *x: g.op("Concat", *x, axis=e.params["dimension"]),
  "conv_general_dilated": _conv,
  "convert_element_type": lambda g, e, x: g.cast(x, e.outvars[0].aval.dtype),
  "cumsum": _cumsum,
  "dot_general": _dot,
  "dynamic_slice": _dynamic_slice,
  "gather": _gather,
  "integer_pow": _integer_pow,
  "iota": _iota,
  "is_finite": _is_finite,
  "ne": lambda g, e, x, y: g.op("Not", g.op("Equal", x, y)),
  "pad": _pad,
  "platform_index": _default_platform,
  "pmax": _over_images,
  "rem": lambda g, e, x, y: g.op("Mod", x, y, fmod=1),
  "rev": _reversed,
  "rsqrt": lambda g, e, x: g.op("Reciprocal", g.op("Sqrt", x)),
  "select_n": _select,
  "slice": _sliced,
  "sort": _sort,
  "split": _split,
  "square": lambda g, e, x: g.op("Mul", x, x),
  "stack": _stack,
  "top_k": _top_k,
  "transpose": lambda g, e, x: g.transpose(x, e.params["permutation"]),
}
