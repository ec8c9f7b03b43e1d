"""A program of a few lines in the compiler's notation: what it runs, how often, and where from."""

import jax
import jax.numpy as jnp
import pytest

from rkd_jax.machine import hlo

TEXT = """HloModule step, is_scheduled=true

FileNames
1 "/home/somebody/rkd_jax/ops/nms.py"
2 "/usr/lib/python3/site-packages/jax/loops.py"
3 "/home/somebody/rkd_jax/train/step.py"

FunctionNames
1 "nms.<locals>.step"
2 "loop"

FileLocations
1 {file_name_id=1 function_name_id=1 line=83 end_line=83 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=5 end_line=5 column=1 end_column=2}
3 {file_name_id=3 function_name_id=2 line=7 end_line=7 column=1 end_column=2}

StackFrames
1 {file_location_id=3 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}
3 {file_location_id=2 parent_frame_id=2}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%twice (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %sum = f32[8]{0} all-reduce(%x), to_apply=%add, metadata={stack_frame_id=3}
  %f = f32[8]{0} fusion(%sum), calls=%inner, metadata={stack_frame_id=3} {"estimated_cycles":"1000"}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %f)
}

%below_five (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%unknown (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] custom-call(%p)
}

%inner (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %s = f32[8]{0} scatter(%x, %x, %x), to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %t = (s32[], f32[8]{0}) tuple(%i, %x)
  %w = (s32[], f32[8]{0}) while(%t), condition=%below_five, body=%twice, metadata={stack_frame_id=2}
  %v = (s32[], f32[8]{0}) while(%w), condition=%unknown, body=%twice, metadata={stack_frame_id=2}
  %big = (f32[4,2048]{1,0:T(8,128)}, s32[4,2048]{1,0}) sort(%x, %x), metadata={stack_frame_id=1}
  %r = bf16[16]{0} all-gather-start(%x), dimensions={0}, metadata={stack_frame_id=1}
  ROOT %d = bf16[16]{0} all-gather-done(%r), backend_config={"estimated_cycles":"500"}
}
"""


@pytest.fixture(scope="module")
def program():
  return hlo.Program(TEXT)


def test_cycles_count_as_often_as_their_loop_runs(program):
  seconds = hlo.seconds_by_module(program, clock=1000.0)
  assumed = hlo.ASSUMED_TRIPS["ops/nms.py"]
  assert seconds == {"ops/nms.py": 5 + assumed, "compiler": 0.5}


def test_of_the_branches_of_a_conditional_the_longest_counts():
  branches = """%short (x: f32[8]) -> f32[8] {
  ROOT %a1 = f32[8]{0} all-reduce(%x), backend_config={"estimated_cycles":"10"}
}

%long (x: f32[8]) -> f32[8] {
  ROOT %a2 = f32[8]{0} all-reduce(%x), backend_config={"estimated_cycles":"30"}
}

ENTRY"""
  chosen = "  %c = f32[8]{0} conditional(%i, %x, %x), branch_computations={%short, %long}\n  ROOT"
  head, main = TEXT.split("ENTRY")
  text = head + branches + main.replace("  ROOT", chosen)
  seconds = hlo.seconds_by_module(hlo.Program(text), clock=1000.0)
  assert seconds["compiler"] == pytest.approx(0.5 + 0.03)
  rows = {(row["kind"], row["loop"]): row for row in hlo.collectives(hlo.Program(text))}
  assert rows["all-reduce", ""]["count"] == 2


def test_loops_say_how_often_they_run_and_whether_that_is_known(program):
  first, second = sorted(hlo.loops(program, clock=1000.0), key=lambda row: not row["known"])
  assert first["source"] == second["source"] == "ops/nms.py:83 step"
  assert (first["trips"], first["known"], first["seconds"]) == (5, True, 5.0)
  assert (second["trips"], second["known"]) == (hlo.ASSUMED_TRIPS["ops/nms.py"], False)
  assert first["carried_bytes"] == 4 + 32


def test_collectives_say_whether_a_loop_waits_for_them(program):
  rows = {(row["kind"], row["loop"]): row for row in hlo.collectives(program)}
  assert rows["all-reduce", "ops/nms.py:83 step"] == {
    "kind": "all-reduce",
    "loop": "ops/nms.py:83 step",
    "count": 2,
    "bytes": 64,
  }
  assert (rows["all-gather", ""]["count"], rows["all-gather", ""]["bytes"]) == (1, 32)


def test_sorts_and_scatters_are_found_within_fusions(program):
  rows = hlo.sorts_and_scatters(program, least_bytes=32)
  assert [row["kind"] for row in rows] == ["sort", "scatter", "scatter"]
  assert rows[0]["shape"] == "(f32[4,2048], s32[4,2048])"
  assert rows[0]["source"] == "train/step.py:7 loop"


def test_a_program_of_this_machine_is_read():
  def triple(x):
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sort(x * x[::-1]), x)

  program = hlo.Program(jax.jit(triple).lower(jnp.ones(5000)).compile().as_text())
  (loop,) = hlo.loops(program, clock=0.0)
  assert (loop["trips"], loop["known"]) == (3, True)
  assert [row["times"] for row in hlo.sorts_and_scatters(program)] == [3]
