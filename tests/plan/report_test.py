"""The page and the figures of a small program on this machine's CPUs."""

import jax
import jax.numpy as jnp
import pytest

from rkd_jax.machine.chips import CHIPS
from rkd_jax.plan import report


def compiled():
  def step(x):
    return jax.lax.fori_loop(0, 4, lambda _, x: jnp.sort(x @ x, axis=0), x)

  return jax.jit(step).lower(jnp.ones((64, 64))).compile()


def test_figures_of_a_loop_of_products():
  figures = report.describe(compiled(), CHIPS["v5e"])
  memory = figures["memory"]
  assert memory["arguments"] == memory["outputs"] == 64 * 64 * 4
  assert memory["available"] == 16e9
  assert figures["flops"] >= 2 * 64**3
  assert figures["roofline_s"] >= figures["flops"] / CHIPS["v5e"].flops
  assert figures["loops"][0]["trips"] == 4
  assert figures["estimate_s"] is None  # XLA has one for TPUs only
  assert not figures["collectives"]


def test_the_page_says_them_with_units():
  page = report.page("a step", report.describe(compiled(), CHIPS["v5e"]), CHIPS["v5e"])
  title, memory, work, *rest = page.splitlines()
  assert title == "a step"
  assert memory.startswith("  memory") and "of 16 GB a device: arguments 16.4 kB" in memory
  assert "TFLOP" in work and "ms of arithmetic" in work
  assert "  loops" in rest and "  sorts and scatters" in rest


@pytest.mark.parametrize(
  "text",
  [
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(42.26G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nUsed 42.26G of 15.75G hbm.",
  ],
)
def test_a_program_too_large_is_said_with_both_sizes_and_the_remedy(text):
  problem = report.problem(RuntimeError(text))
  assert problem.startswith("DOES NOT FIT: needs 42.26G of a device's 15.75G. A smaller --batch")


def test_another_refusal_is_the_compiler_s_in_one_line():
  assert report.problem(RuntimeError("NO:\n f64")) == "DOES NOT COMPILE: NO: f64"
