"""The page, in Gradio: an image and words on the left, what each run finds on the right."""

import html
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What it would tell its makers is settled when it is imported.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}

import gradio as gr
from fastapi import FastAPI
from gradio import routes
from gradio.themes import Default
from gradio_client.utils import is_http_url_like

from rkd_jax.detect.detector import MIN_SCORE
from rkd_jax.detect.result import Result
from rkd_jax.web.look import Looker, TooManyError, answer

_MOST_QUEUED = 40
# Words that are counted in the sentence above the picture.
_NAMED = 4
# Seconds between removals of files, and after which what was uploaded or drawn is removed.
_REMOVAL = (60, 600)
_COLUMNS = ("word", "score", "x1", "y1", "x2", "y2")
# Fonts of the visitor's machine: the theme's own come from the internet.
_THEME = Default(
  font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
).set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
_CSS = """
.gradio-container { width: 100%; max-width: 1600px !important; margin: auto; }
.gradio-container .main { max-width: 100vw; }
.said { font-size: 1.05em; padding: 0.2em 0; min-height: 3.2em; overflow-wrap: anywhere; }
.said[role=alert] { border-left: 4px solid #d9480f; padding-left: 0.7em; }
.boxes { overflow: auto; max-height: 22em; font-size: 0.9em; }
.boxes table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.boxes :is(th, td) { padding: 0.25em 0.4em; text-align: right; }
.boxes :is(th, td) { border: 1px solid var(--border-color-primary) !important; }
.boxes :is(th, td):first-child { text-align: left; min-width: 6em; overflow-wrap: anywhere; }
/* The name and the buttons stand above the picture, which may have boxes in its corners. */
.picture .image-container { padding-top: 2.2em; }
"""


def mount(app: FastAPI, looker: Looker, folder: Path, examples: Sequence[Path] = ()) -> FastAPI:
  """The application with the page at its root; see `build`."""
  # Of the two Gradio has read the second already, when it was imported.
  os.environ["GRADIO_TEMP_DIR"] = os.fspath(folder)
  routes.DEFAULT_TEMP_DIR = os.fspath(folder)  # pyright: ignore[reportPrivateImportUsage]
  blocks = build(looker, folder, examples)
  # The page waits in a queue of its own, of which one request at a time comes to the looker.
  blocks.queue(max_size=_MOST_QUEUED, api_open=False)
  return gr.mount_gradio_app(
    app,
    blocks,
    path="/",
    footer_links=[],
    run_history=False,
    max_file_size=looker.max_bytes,
    ssr_mode=False,
    pwa=False,
    mcp_server=False,
    theme=_THEME,
    css=_CSS,
  )


def build(looker: Looker, folder: Path, examples: Sequence[Path] = ()) -> gr.Blocks:
  """The page; files that it makes lie in `folder`."""
  runs, choices = list(looker.detectors), looker.closed_words()
  with gr.Blocks(
    title="rkd-jax", analytics_enabled=False, delete_cache=_REMOVAL, fill_width=True
  ) as page:
    gr.Markdown("# What is where?\nDrop an image, and say what to look for.")
    with gr.Row():
      with gr.Column(scale=1, min_width=320):
        image = _image_input()
        words = _words_input(looker, choices)
        score = gr.Slider(0, 1, MIN_SCORE, step=0.01, label="Least score", elem_id="score")
        button = gr.Button("Look", variant="primary", elem_id="look")
        if examples:
          gr.Examples([os.fspath(file) for file in examples], image, label="Images of validation")
      shown: list[Any] = []
      with gr.Column(scale=2 * len(runs), min_width=320), gr.Row():
        for number, run in enumerate(runs):
          with gr.Column(min_width=320):
            shown += _outputs(run, number)

    def see(path: str | None, typed: Any, least: float) -> list[Any]:
      seen: list[Any] = []
      for run in runs:
        seen += _seen(looker, run, path, typed or None, least, folder)
      return seen

    asked = words.input if choices is not None else words.submit
    # The newest wish counts where somebody slides on while it is drawn.
    gr.on(
      [image.change, asked, button.click, score.release],
      see,
      [image, words, score],
      shown,
      show_progress="minimal",
      trigger_mode="always_last",
      concurrency_limit=1,
      api_visibility="private",
    )
  return page


def _image_input() -> gr.Image:
  """Where images are dropped.

  Gradio would decode the file with all that Pillow has, and fetch addresses that somebody sends in
  place of a file: here the path is handed on, and files that were uploaded are all there is.
  """
  image = gr.Image(
    type="filepath", sources=["upload", "clipboard"], label="Image", height=300, elem_id="image"
  )
  moved = image.async_move_resource_to_block_cache

  async def uploaded_only(url_or_file_path: str | Path | None) -> str | None:
    if is_http_url_like(str(url_or_file_path)):
      raise gr.Error("Addresses are not fetched: upload the file.")
    return await moved(url_or_file_path)

  image.async_move_resource_to_block_cache = uploaded_only
  image.preprocess = lambda payload: payload.path if payload else None
  return image


def _words_input(looker: Looker, choices: Sequence[str] | None) -> Any:
  if choices is not None:
    return gr.Dropdown(
      list(choices),
      multiselect=True,
      label="Words",
      info=f"None of them looks for all {len(choices)}. For any word, start with --clip.",
      elem_id="words",
    )
  stored = [own.words.stored for own in looker.detectors.values()]
  own = next((one.names for one in stored if one is not None and one.names), ())
  return gr.Textbox(
    label="Words",
    info="Commas between them; Enter looks."
    + (f" None looks for the run's own {len(own)}." if own else ""),
    placeholder=", ".join(own[:2]) or "red car, dog",
    max_lines=3,
    elem_id="words",
  )


def _outputs(run: str, number: int) -> list[Any]:
  """A run's column: what was found or went wrong, picture, boxes, and the file of them."""
  said = gr.HTML(_said("Nothing was looked for yet."), padding=False, elem_id=f"said{number}")
  picture = gr.Image(
    label=run,
    interactive=False,
    format="png",
    buttons=["download", "fullscreen"],
    elem_id=f"picture{number}",
    elem_classes="picture",
  )
  table = gr.HTML(padding=False, elem_id=f"table{number}")
  file = gr.DownloadButton("Boxes as COCO JSON", interactive=False, elem_id=f"file{number}")
  return [said, picture, table, file]


def _seen(
  looker: Looker, run: str, path: str | None, words: Any, least: float, folder: Path
) -> list[Any]:
  """The content of a run's column."""
  nothing = [None, "", gr.DownloadButton(value=None, interactive=False)]
  if path is None:
    return [_said("There is no image yet: drop one, or choose one."), *nothing]
  name = Path(path).name
  try:
    every = looker.look(run, _content(path, looker), name, words)
  except (ValueError, TooManyError) as error:
    return [_said(str(error), "alert"), *nothing]
  found = every.above(least)
  ranked = Counter(found.result.labels).most_common()
  summary = ", ".join(f"{count} {label}" for label, count in ranked[:_NAMED])
  if (others := len(ranked) - _NAMED) > 0:
    summary += f", and {others} other word{'s' if others > 1 else ''}"
  if not summary:
    best = f" The best has {every.result.scores[0]:.2f}." if len(every.result) else ""
    summary = f"Nothing has a score of {least:g}.{best}"
  # In a folder of its own, so that each visitor gets what is on the page.
  file = Path(tempfile.mkdtemp(dir=folder)) / f"{Path(name).stem}.json"
  content = answer(run, found.result).model_dump(exclude_none=True)
  file.write_text(json.dumps(content, indent=1), encoding="utf-8")
  download = gr.DownloadButton(value=os.fspath(file), interactive=True)
  return [_said(summary), found.draw(), _table(found.result), download]


def _table(result: Result) -> str:
  """The boxes as HTML."""
  head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
  rows = [
    f"<td>{html.escape(label)}</td><td>{score:.2f}</td>"
    + "".join(f"<td>{value:.1f}</td>" for value in box)
    for label, score, box in zip(result.labels, result.scores, result.boxes)
  ]
  body = "".join(f"<tr>{row}</tr>" for row in rows)
  return f'<div class="boxes"><table><tr>{head}</tr>{body}</table></div>' if rows else ""


def _content(path: str, looker: Looker) -> bytes:
  """An uploaded file; ValueError where it is too large or no longer kept."""
  file = Path(path)
  try:
    if file.stat().st_size > looker.max_bytes:
      raise ValueError(looker.too_large(file.name))
    return file.read_bytes()
  except FileNotFoundError as error:
    raise ValueError(f"{file.name} is not kept any more: choose it again.") from error


def _said(sentence: str, role: str = "status") -> str:
  return f'<div class="said" role="{role}">{html.escape(sentence)}</div>'
