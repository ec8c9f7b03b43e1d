"""From a jaxpr to an ONNX model: the primitives that detectors are made of, and no others.

Each form adds the nodes that compute what its equation says.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr
from onnx import helper

from rkd_jax.export.onnx_graph import Form, Graph, Shared, Value, Weights, described, unknown

OPSET = 18
# Models say that they are of this version of the format, which runtimes know since 2023.
IR_VERSION = 9

_NODES = {
  "abs": "Abs",
  "ceil": "Ceil",
  "exp": "Exp",
  "floor": "Floor",
  "log": "Log",
  "logistic": "Sigmoid",
  "neg": "Neg",
  "sign": "Sign",
  "sqrt": "Sqrt",
  "tanh": "Tanh",
  **dict.fromkeys(("copy", "copy_p", "stop_gradient", "optimization_barrier"), "Identity"),
  "add": "Add",
  "add_any": "Add",
  "div": "Div",
  "eq": "Equal",
  "ge": "GreaterOrEqual",
  "gt": "Greater",
  "le": "LessOrEqual",
  "lt": "Less",
  "max": "Max",
  "min": "Min",
  "mul": "Mul",
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
  shared = Shared(weights, _FORMS)
  graph = Graph(shared)
  for input_name, var in zip(inputs, program.jaxpr.invars, strict=True):
    graph.values[var] = input_name
  found = graph.run(program.jaxpr, [np.asarray(c) for c in program.consts])
  for output_name, value in zip(outputs, found, strict=True):
    graph.nodes.append(helper.make_node("Identity", [graph.name(value)], [output_name]))
  signature = [
    [described(n, var.aval) for n, var in zip(names, variables)]
    for names, variables in (
      (inputs, program.jaxpr.invars),
      (outputs, program.jaxpr.outvars),
    )
  ]
  proto = helper.make_graph(graph.nodes, name, *signature, initializer=shared.initializers)
  opset = [helper.make_opsetid("", OPSET)]
  return helper.make_model(
    proto, opset_imports=opset, ir_version=IR_VERSION, producer_name="rkd_jax"
  )


def _node(kind: str) -> Form:
  """The form of a primitive that is one node of that kind."""
  return lambda graph, eqn, *inputs: graph.op(kind, *inputs)


def _logical(kind: str) -> Form:
  """The same for truth values; ONNX has other nodes for bits."""

  def form(graph: Graph, eqn: Any, *inputs: Value) -> str:
    if eqn.invars[0].aval.dtype != bool:
      raise unknown(eqn, "of bits")
    return graph.op(kind, *inputs)

  return form


def _reduction(kind: str) -> Form:
  def form(graph: Graph, eqn: Any, x: Value) -> str:
    boolean = eqn.invars[0].aval.dtype == bool
    x = graph.cast(x, np.int32) if boolean else x
    y = graph.op(kind, x, graph.ints(*eqn.params["axes"]), keepdims=0)
    return graph.cast(y, bool) if boolean else y

  return form


def _reshaped(graph: Graph, eqn: Any, x: Value) -> str:
  return graph.reshape(x, eqn.outvars[0].aval.shape)


def _broadcast(graph: Graph, eqn: Any, x: Value) -> str:
  shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
  ones = [1] * len(shape)
  for axis, length in zip(dims, eqn.invars[0].aval.shape, strict=True):
    ones[axis] = length
  x = graph.reshape(x, ones)
  return x if tuple(ones) == tuple(shape) else graph.op("Expand", x, graph.ints(*shape))


def _iota(graph: Graph, eqn: Any) -> str:
  shape, axis = eqn.params["shape"], eqn.params["dimension"]
  counted = np.arange(shape[axis], dtype=eqn.params["dtype"])
  line = counted.reshape([-1 if i == axis else 1 for i in range(len(shape))])
  return graph.op("Expand", line, graph.ints(*shape))


def _select(graph: Graph, eqn: Any, which: Value, no: Value, *yes: Value) -> str:
  if len(yes) != 1 or eqn.invars[0].aval.dtype != bool:
    raise unknown(eqn, "of several cases")
  if eqn.outvars[0].aval.dtype != bool:
    return graph.op("Where", which, yes[0], no)
  kept = graph.op("And", which, yes[0])
  return graph.op("Or", kept, graph.op("And", graph.op("Not", which), no))


def _clamp(graph: Graph, eqn: Any, low: Value, x: Value, high: Value) -> str:
  return graph.op("Min", graph.op("Max", x, low), high)


def _pad(graph: Graph, eqn: Any, x: Value, value: Value) -> str:
  low, high, between = zip(*eqn.params["padding_config"])
  if any(between):
    raise unknown(eqn, "between the elements")
  boolean = eqn.invars[0].aval.dtype == bool
  x, value = (graph.cast(v, np.int32) if boolean else v for v in (x, value))
  y = graph.op("Pad", x, graph.ints(*low, *high), value)
  return graph.cast(y, bool) if boolean else y


def _sliced(graph: Graph, eqn: Any, x: Value) -> str:
  p, axes = eqn.params, range(eqn.invars[0].aval.ndim)
  bounds = (p["start_indices"], p["limit_indices"], axes, p["strides"] or [1] * len(axes))
  return graph.op("Slice", x, *(graph.ints(*numbers) for numbers in bounds))


def _over_images(graph: Graph, eqn: Any, x: Value) -> str:
  """The largest of what the images of a `jax.vmap` have, which is an axis."""
  axes = eqn.params["axes"]
  if not all(isinstance(axis, int) for axis in axes):
    raise unknown(eqn, "over devices")
  return graph.op("ReduceMax", x, graph.ints(*axes), keepdims=0)


def _reversed(graph: Graph, eqn: Any, x: Value) -> str:
  axes = eqn.params["dimensions"]
  before = np.iinfo(np.int64).min  # the end of what begins at the last and goes down
  ends = (graph.ints(*[n] * len(axes)) for n in (-1, before))
  return graph.op("Slice", x, *ends, graph.ints(*axes), graph.ints(*[-1] * len(axes)))


def _dynamic_slice(graph: Graph, eqn: Any, x: Value, *starts: Value) -> str:
  sizes, shape = eqn.params["slice_sizes"], eqn.invars[0].aval.shape
  first = graph.op("Concat", *(graph.reshape(graph.cast(s, np.int64), [1]) for s in starts), axis=0)
  last = np.array([n - size for n, size in zip(shape, sizes)], np.int64)
  first = graph.op("Min", graph.op("Max", first, np.zeros_like(last)), last)
  end = graph.op("Add", first, np.array(sizes, np.int64))
  return graph.op("Slice", x, first, end, graph.ints(*range(len(shape))))


def _conv(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
  p = eqn.params
  numbers = p["dimension_numbers"]
  if any(d != 1 for d in p["lhs_dilation"]) or p["batch_group_count"] != 1:
    raise unknown(eqn, "transposed")
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


def _window(graph: Graph, eqn: Any, x: Value) -> Value:
  """Sums or maxima over windows of the two axes before the last."""
  p, total = eqn.params, eqn.primitive.name == "reduce_window_sum"
  size, strides, padding = (p[key] for key in ("window_dimensions", "window_strides", "padding"))
  outer = (size[0], size[-1], strides[0], strides[-1], *padding[0], *padding[-1])
  dilated = {*p["base_dilation"], *p["window_dilation"]} != {1}
  if len(size) != 4 or outer != (1,) * 4 + (0,) * 4 or dilated:
    raise unknown(eqn, "over other axes than rows and columns")
  low, high = zip(*padding[1:3])
  settings = {"kernel_shape": size[1:3], "strides": strides[1:3], "pads": [*low, *high]}
  x = graph.transpose(x, (0, 3, 1, 2))
  if total:
    y = graph.op("AveragePool", x, count_include_pad=1, **settings)
    y = graph.op("Mul", y, np.array(math.prod(size), np.float32))
  else:
    y = graph.op("MaxPool", x, **settings)
  return graph.transpose(y, (0, 2, 3, 1))


def _dot(graph: Graph, eqn: Any, a: Value, b: Value) -> str:
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


def _top_k(graph: Graph, eqn: Any, x: Value) -> list[Value]:
  if eqn.params["axis"] != eqn.invars[0].aval.ndim - 1:
    raise unknown(eqn, "along another axis than the last")
  values, index = graph.ops("TopK", 2, x, graph.ints(eqn.params["k"]))
  return [values, graph.cast(index, eqn.outvars[1].aval.dtype)]


def _sort(graph: Graph, eqn: Any, key: Value, *others: Value) -> list[Value]:
  """Of equal keys the first comes first, as in a stable sort."""
  axis, shape = eqn.params["dimension"], eqn.invars[0].aval.shape
  if eqn.params["num_keys"] != 1:
    raise unknown(eqn, "by several keys")
  values, index = graph.ops("TopK", 2, key, graph.ints(shape[axis]), axis=axis, largest=0)
  return [values, *(graph.op("GatherElements", x, index, axis=axis) for x in others)]


def _gather(graph: Graph, eqn: Any, x: Value, index: Value) -> Value:
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
    raise unknown(eqn, "of parts of slices")
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
  if eqn.params["fill_value"] is None or np.issubdtype(dtype, np.bool_):
    raise unknown(eqn, "with a default")
  return graph.op("Where", there, y, np.array(eqn.params["fill_value"], dtype))


def _scatter(graph: Graph, eqn: Any, x: Value, index: Value, updates: Value) -> Value:
  """Numbers at places along the last axis; those of places beyond its end are dropped."""
  numbers, shape = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape
  last = len(shape) - 1
  axes = tuple(map(int, numbers.scatter_dims_to_operand_dims))
  if axes != (last,):
    raise unknown(eqn, "along another axis than the last")
  if not numbers.inserted_window_dims:
    if not isinstance(index, np.ndarray) or eqn.primitive.name != "scatter":
      raise unknown(eqn, "of slices")
    start, length = int(index.reshape(())), eqn.invars[2].aval.shape[-1]
    parts = [
      graph.slice(x, last, 0, start),
      graph.name(updates),
      graph.slice(x, last, start + length, shape[-1]),
    ]
    return graph.op("Concat", *parts, axis=last)
  rows = list(map(int, numbers.operand_batching_dims)) == list(range(last))
  if not rows or eqn.invars[2].aval.ndim != len(shape):
    raise unknown(eqn, "of rows")
  # One place more, for what is dropped.
  end = np.array(shape[-1], np.int64)
  index = graph.reshape(graph.cast(index, np.int64), eqn.invars[2].aval.shape)
  index = graph.op("Min", index, end)
  extra = np.zeros((*shape[:-1], 1), eqn.invars[0].aval.dtype)
  x = graph.op("Concat", x, extra, axis=last)
  how = {"reduction": "add"} if eqn.primitive.name == "scatter-add" else {}
  y = graph.op("ScatterElements", x, index, updates, axis=last, **how)
  return graph.slice(y, last, 0, shape[-1])


def _integer_pow(graph: Graph, eqn: Any, x: Value) -> str:
  return graph.op("Pow", x, np.array(eqn.params["y"], eqn.outvars[0].aval.dtype))


def _split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
  axis, ends = eqn.params["axis"], [*itertools.accumulate(eqn.params["sizes"], initial=0)]
  return [graph.slice(x, axis, *bounds) for bounds in itertools.pairwise(ends)]


def _stack(graph: Graph, eqn: Any, *parts: Value) -> str:
  axis = eqn.params["axis"]
  shape = [1 if i == axis else n for i, n in enumerate(eqn.outvars[0].aval.shape)]
  return graph.op("Concat", *(graph.reshape(x, shape) for x in parts), axis=axis)


def _cumsum(graph: Graph, eqn: Any, x: Value) -> str:
  axis = np.array(eqn.params["axis"], np.int64)
  return graph.op("CumSum", x, axis, reverse=int(eqn.params["reverse"]))


def _is_finite(graph: Graph, eqn: Any, x: Value) -> str:
  return graph.op("Not", graph.op("Or", graph.op("IsNaN", x), graph.op("IsInf", x)))


def _default_platform(graph: Graph, eqn: Any) -> np.ndarray:
  """Which of the forms for different platforms: that for any."""
  return np.array(len(eqn.params["platforms"]) - 1, np.int32)


_FORMS: dict[str, Form] = {
  **{name: _node(kind) for name, kind in _NODES.items()},
  **{name: _logical(kind) for name, kind in (("and", "And"), ("or", "Or"), ("not", "Not"))},
  **{name: _reduction(kind) for name, kind in _REDUCTIONS.items()},
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
