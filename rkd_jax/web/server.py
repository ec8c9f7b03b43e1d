"""The page and the endpoint as one application, and the server that runs it until it is stopped."""

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rkd_jax import __version__
from rkd_jax.detect.detector import MIN_SCORE
from rkd_jax.web import page
from rkd_jax.web.look import Answer, Looker, TooManyError, answer

# Nothing comes from elsewhere, and no other site shows the page within its own.
_POLICY = (
  "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
  "'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: "
  "blob:; worker-src 'self' blob:; frame-ancestors 'none'"
)
# Gradio serves more than a page needs, such as tools that change videos and programs.
_SERVED = re.compile(
  r"/(health|predict|openapi\.json|config/?|theme\.css|favicon\.ico|manifest\.json"
  r"|(assets|static|svelte)/.*|gradio_api/(upload|upload_progress|file=.*|queue/(join|data)"
  r"|run/predict|heartbeat/\w+|cancel|reset|startup-events)/?)?"
)
# Of a request, beside the image.
_OTHER_BYTES = 200_000


class Question(BaseModel):
  """What is asked of /predict; see docs/web.md."""

  model_config = ConfigDict(extra="forbid")

  image: bytes
  name: str = "image"
  words: str | list[str] | None = None
  min_score: float = Field(MIN_SCORE, ge=0, le=1)
  run: str | None = None


class Health(BaseModel):
  """That the server is there, with which runs."""

  status: str
  version: str
  runs: list[str]


# Writes images to choose from into a folder.
Examples = Callable[[Path], list[Path]]


def make_app(looker: Looker, folder: Path, local: bool, examples: Examples) -> FastAPI:
  """The application.

  Args:
    looker: the runs and the limits.
    folder: for uploaded and drawn files, whose removal is the caller's.
    local: only names of this machine are answered to, so that no site that gives its own name this
      machine's address gets an answer.
    examples: writes images to choose from into `folder`.
  """
  # The pages of API documentation would fetch their scripts elsewhere.
  app = FastAPI(title="rkd_jax", version=__version__, docs_url=None, redoc_url=None)

  @app.get("/health")
  def health() -> Health:
    return Health(status="ok", version=__version__, runs=list(looker.detectors))

  schema = {"schema": Question.model_json_schema()}
  kinds = {"content": dict.fromkeys(("multipart/form-data", "application/json"), schema)}

  @app.post("/predict", response_model_exclude_none=True, openapi_extra={"requestBody": kinds})
  async def predict(request: Request) -> Answer:
    asked = await _question(request, looker)
    run = asked.run or next(iter(looker.detectors))
    try:
      found = await run_in_threadpool(looker.look, run, asked.image, asked.name, asked.words)
    except TooManyError as error:
      raise HTTPException(503, f"{error}", {"Retry-After": "5"}) from error
    except ValueError as error:
      raise HTTPException(400, f"{error}") from error
    except asyncio.CancelledError as error:
      raise HTTPException(503, "The server was stopped.") from error
    return answer(run, found.result.above(asked.min_score))

  @app.exception_handler(HTTPException)
  async def refused(_: Request, error: HTTPException) -> JSONResponse:
    return _refusal(error.status_code, error.detail, error.headers)

  @app.exception_handler(Exception)
  async def failed(_: Request, error: Exception) -> JSONResponse:
    return _refusal(500, f"The server failed ({type(error).__name__}); its terminal says more.")

  if local:
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
  app.add_middleware(_Guard, most_bytes=looker.max_bytes)
  return page.mount(app, looker, folder, examples(folder))


async def _question(request: Request, looker: Looker) -> Question:
  """What was sent, as a form with a file or as JSON with the file in base64.

  Raises:
    HTTPException: it is neither, or a field is wrong.
  """
  kind = request.headers.get("content-type", "").partition(";")[0]
  given: dict[str, Any]
  if kind == "multipart/form-data":
    async with request.form(max_files=1, max_fields=8, max_part_size=_OTHER_BYTES) as form:
      given = dict(form)
      if isinstance(file := given.get("image"), UploadFile):
        given |= {"image": await file.read(), "name": Path(file.filename or "image").name}
  elif kind == "application/json":
    try:
      given = json.loads(await request.body())
      given["image"] = base64.b64decode(given["image"], validate=True)
    except KeyError:
      pass  # what is missing is said below
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
      detail = f"Expected a JSON object with the file in base64 as 'image': {error}."
      raise HTTPException(400, detail) from error
  else:
    raise HTTPException(415, "Send multipart/form-data with a file 'image', or application/json.")
  try:
    asked = Question.model_validate(given)
  except ValidationError as error:
    wrong = error.errors()[0]
    field = ".".join(map(str, wrong["loc"]))
    detail = f"{field}: {wrong['msg']}. Fields: {', '.join(Question.model_fields)}."
    raise HTTPException(422, detail) from error
  if len(asked.image) > looker.max_bytes:
    raise HTTPException(413, looker.too_large(asked.name))
  return asked


def _refusal(status: int, sentence: str, headers: Any = None) -> JSONResponse:
  return JSONResponse({"error": sentence}, status, headers)


class _Guard:
  """Refuses what the page does not need, bodies that are too large, and what other sites send."""

  def __init__(self, app: ASGIApp, most_bytes: int):
    self._app = app
    # In base64 four letters stand for three bytes.
    self._most = most_bytes * 4 // 3 + _OTHER_BYTES

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return

    async def guarded(message: Message) -> None:
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers["Content-Security-Policy"] = _POLICY
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
      await send(message)

    refused = self._refused(scope["method"], scope["path"], Headers(scope=scope))
    await (refused or self._app)(scope, receive, guarded)

  def _refused(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
    if not _SERVED.fullmatch(path):
      return _refusal(404, "There is nothing here; the page is at /.")
    if method != "POST":
      return None
    length = headers.get("content-length", "")
    if not length.isdecimal():
      return _refusal(411, "Say how long the request is, in the header Content-Length.")
    if int(length) > self._most:
      return _refusal(413, f"The request has {int(length):,} bytes; {self._most:,} are allowed.")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
      return _refusal(403, "Only the page itself may send this.")
    return None


def is_loopback(host: str) -> bool:
  """Whether only this machine reaches a server there."""
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _bound(host: str, port: int) -> socket.socket:
  """A socket that listens at the address; OSError, with what to do, where that cannot be."""
  try:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    bound.listen()  # who comes before the server runs has to wait, and is not refused
  except OSError as error:
    raise OSError(f"{host}:{port}: {error}. Give another --port or --host.") from error
  return bound


@contextlib.contextmanager
def serving(
  looker: Looker, host: str, port: int, examples: Examples
) -> Iterator[tuple[uvicorn.Server, socket.socket, str]]:
  """A server with its socket and address, not yet running; its files are removed at the end."""
  with tempfile.TemporaryDirectory(prefix="rkd_jax_web_") as folder, _bound(host, port) as bound:
    app = make_app(looker, Path(folder).resolve(), is_loopback(host), examples)
    # Pages hold a connection open for news.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    shown = f"[{host}]" if ":" in host else host
    yield uvicorn.Server(config), bound, f"http://{shown}:{bound.getsockname()[1]}"


def serve(looker: Looker, host: str, port: int, examples: Examples) -> None:
  """Serves until Ctrl-C or SIGTERM.

  Raises:
    OSError: the port is taken, or the host is not of this machine.
  """
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, _stop)
  try:
    with serving(looker, host, port, examples) as (server, bound, address):
      print(f"Open {address} (Ctrl-C ends it).", flush=True)
      server.run([bound])
  finally:
    print("Stopped.", flush=True)
    if looker.busy():
      # A program that is being compiled, for minutes perhaps, cannot be told to end.
      os._exit(0)


def _stop(number: int, frame: Any) -> None:
  raise SystemExit(0)
