"""The README and docs/: commands name what there is, and the snippets marked `<!-- run -->` run.

Other blocks need data, weights or machines that no test has; of these every verb, flag, config and
setting is looked up.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rkd_jax import cli, configs
from tests import demo_project

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^(<!-- run -->\n)?```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
_SHELL = ("", "bash", "sh", "console")


def blocks(page):
  """(is run, language, text) of each fenced block."""
  return [(bool(run), language, text) for run, language, text in _BLOCK.findall(page.read_text())]


def commands(page):
  """The commands of a page, with continued lines in one and without comments."""
  for _, language, text in blocks(page):
    if language in _SHELL:
      for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        yield from (part.strip() for part in re.split(r"&&|;", line))


def module_of(command):
  """The module that a command runs, or None for a command of another program."""
  if found := re.match(r"rkd-jax ([\w-]+)", command):
    return f"rkd_jax.{cli.VERBS[found[1]][0]}"
  found = re.match(r"(?:[A-Z_]+=\S+ )*python3? -m (rkd_jax[\w.]*)", command)
  return found and found[1]


@functools.cache
def flags_of(module):
  """The flags that --help tells."""
  # Scenic is no requirement; its command line stands in.
  places = os.pathsep.join(map(str, (REPOSITORY / "tests/scenic_stand_in", REPOSITORY)))
  environment = {**os.environ, **({"PYTHONPATH": places} if ".scenic" in module else {})}
  command = [sys.executable, "-m", module, "--help"]
  done = subprocess.run(
    command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False
  )
  return set(re.findall(r"--(?:\[no-?\])?([\w]+)", done.stdout))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page):
  targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M))
  for command in commands(page):
    if found := re.match(r"make (\w+)", command):
      assert found[1] in targets, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
    if "://" not in target and "OWNER" not in target:
      assert (page.parent / target).exists(), target


@pytest.mark.door
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_flags_that_they_are_given(page):
  for command in commands(page):
    module = module_of(command)
    if module is None:
      continue
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", command)
    given = re.findall(r"(?<=\s)--([\w.]+)(?:=(\S*))?", unquoted)
    for name, value in given:
      known = flags_of(module)
      if name == "config" and re.fullmatch(r"[\w/]+(\.py)?(:\S*)?", value):
        if not re.match(r"(my_|FILE|CONFIG|\.\.\.)", value):
          configs.load(re.sub(r"=[A-Z_]+", "=x", value))
      elif name.startswith("config."):
        at = re.search(r"--config=(\S+)", unquoted)
        if at and re.match(r"(configs/)?(coco|lvis|demo|coco_json)\b", at[1]):
          setting = configs.load(re.sub(r"=[A-Z_]+", "=x", at[1]))
          for part in name.split(".")[1:]:
            assert part in setting, command
            setting = setting[part]
      elif name != "help":
        assert name in known or name.removeprefix("no") in known, (command, name)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  folder = tmp_path_factory.mktemp("project")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    demo_project.build(folder)
  return folder


@pytest.mark.door
@pytest.mark.parametrize(
  "page", [page for page in PAGES if any(run for run, *_ in blocks(page))], ids=lambda p: p.name
)
def test_marked_snippets_run_from_top_to_bottom(page, project):
  environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
  for run, language, text in blocks(page):
    if not run:
      continue
    if language == "python":
      command = [sys.executable, "-c", text]
    else:
      shell = f'rkd-jax() {{ "{sys.executable}" -m rkd_jax.cli "$@"; }}\nset -e\n'
      command = ["bash", "-c", shell + text.replace("python -m", f"{sys.executable} -m")]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.door
def test_the_notebook_runs_from_top_to_bottom(project):
  """As a program: its cells one after the other."""
  notebook = json.loads((REPOSITORY / "docs" / "words.ipynb").read_text())
  cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
  assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
  environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": "", "MPLBACKEND": "Agg"}
  command = [sys.executable, "-c", "\n".join(cells)]
  done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-4000:]
  assert "'helicopter' is not in this model's vocabulary" in done.stdout
