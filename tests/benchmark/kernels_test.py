"""Traces as CPUs, GPUs and TPUs write them, of the program of `hlo_test`."""

from types import SimpleNamespace

import pytest

from rkd_jax.benchmark.kernels import heaviest
from rkd_jax.machine import hlo

TEXT = """HloModule step, is_scheduled=true

%body (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %fusion.1 = f32[4]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(step)/rpn/conv/add"}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %b = f32[4]{0} parameter(0)
  %copy.2 = f32[4]{0} copy(%b)
  %while.3 = f32[4]{0} while(%copy.2), condition=%c, body=%body
  ROOT %sort.4 = f32[4]{0} sort(%while.3)
}
"""


def plane(**lines):
  """A plane whose lines hold events (name, stats, milliseconds)."""
  return SimpleNamespace(
    lines=[
      SimpleNamespace(
        name=name.replace("_", " "),
        events=[
          SimpleNamespace(name=text, stats=list(stats.items()), duration_ns=1e6 * duration)
          for text, stats, duration in events
        ],
      )
      for name, events in lines.items()
    ]
  )


def op(name, duration):
  return "a kernel's own name", {"hlo_op": name, "hlo_module": "jit_step"}, duration


def test_threads_and_streams_note_the_operation():
  threads = plane(
    one=[op("fusion.1", 3), op("while.3", 9), ("ThreadpoolListener", {}, 50)],
    other=[op("fusion.1", 3), op("copy.2", 2), op("of_another_program", 70)],
  )
  rows = heaviest(hlo.Program(TEXT), [threads, plane()], calls=2, most=1)
  assert rows[0] == {
    "name": "fusion.1",
    "opcode": "fusion",
    "source": "compiler",
    "scope": "rpn/conv",
    "seconds": pytest.approx(3e-3),
    "share": pytest.approx(0.75),
  }
  assert rows[1]["name"] == "the other 1" and rows[1]["seconds"] == pytest.approx(1e-3)


def test_a_tpu_has_a_line_of_operations():
  tpu = plane(
    XLA_Modules=[("jit_step(123)", {}, 100)],
    XLA_Ops=[("%sort.4 = f32[4]{0} sort(f32[4]{0} %while.3)", {}, 4), ("%while.3 = f32[4]", {}, 9)],
    Steps=[op("sort.4", 50)],
  )
  rows = heaviest(hlo.Program(TEXT), [tpu], calls=1, most=5)
  assert [(row["name"], row["seconds"]) for row in rows] == [("sort.4", pytest.approx(4e-3))]


def test_a_trace_of_something_else():
  assert heaviest(hlo.Program(TEXT), [plane(one=[op("x", 1)])], calls=1, most=5) == []
