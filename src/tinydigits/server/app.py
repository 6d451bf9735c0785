"""The application: its routes, its pages, and how errors are answered."""

import base64
import gc
import hashlib
import html
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from tinydigits.exporters.browser.page import drawing_page, network_json
from tinydigits.exporters.templates import fill_template
from tinydigits.server import tensors
from tinydigits.server.errors import MAX_BODY, MAX_PICTURES, MAX_PIXELS, RejectedError, rejections
from tinydigits.server.limits import with_limits
from tinydigits.server.metrics import Metrics
from tinydigits.server.networks import ModelFacts, ServedNetwork, load_networks
from tinydigits.server.options import Options
from tinydigits.server.pictures import PredictResponse, find_uploads, predictions, prepare
from tinydigits.server.queue import Queue

_READING = rejections(400, 404, 408, 413, 415)
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "additionalProperties": {"type": "array", "items": _BYTES["schema"]}, "minProperties": 1}
_PICTURES = {"image/png": _BYTES, "image/jpeg": _BYTES, "multipart/form-data": {"schema": _FORM}}
_PICTURE = {"path": "picture", "rejected": False, "labels": [{"label": 7, "score": 0.9998}]}
_ANSWER = {"model": "tiny-10k", "time_seconds": 0.0007, "pictures": [_PICTURE]}
_BINARY = {"application/octet-stream": _BYTES}
_INPUT = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
_EXAMPLE = {"inputs": [_INPUT], "outputs": [{"name": "digit"}]}
_REQUEST = {"schema": {"$ref": "#/components/schemas/InferRequest"}, "example": _EXAMPLE}
_LENGTH = {tensors.HEADER: {"description": "Where JSON ends and binary tensors begin", "schema": {"type": "integer"}}}


class Service:
    """What one process of the server holds."""

    def __init__(self, options: Options) -> None:
        Image.preinit()  # otherwise the first request waits for the decoders
        self.options = options
        self.networks = load_networks(options.model)
        self.metrics = Metrics()
        self.pool = ThreadPoolExecutor(2)  # for heavy work: large pictures, forms, large batches
        self.queue = Queue(options.waiting, self.pool, self.metrics)

    def network(self, name: str | None) -> ServedNetwork:
        """A network by name; None: the default. Raises RejectedError (404) if none of that name is served."""
        found = self.networks.get((name or next(iter(self.networks))).replace("_", "-"))
        if found is None:
            raise RejectedError("unknown_model", name=name, known=", ".join(self.networks))
        return found


def create_app(service: Service, started: Callable[[], object]) -> ASGIApp:
    """The whole application; `started` is called when it is ready."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gc.collect()
        gc.freeze()  # what lives as long as the server need not be looked through again
        started()
        yield
        service.pool.shutdown()

    app = FastAPI(
        title="tinydigits",
        version=version("tinydigits"),
        description=f"Reads handwritten digits: at most {MAX_BODY:,} bytes and {MAX_PICTURES} pictures in a request, "
        f"{MAX_PIXELS:,} pixels a picture. A busy server sends 503 with `Retry-After`.",
        responses=rejections(401, 503),
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_page(app, "/", *_home_page(list(service.networks.values())))
    _add_page(app, "/docs", *_docs_page())
    _add_states(app, service)
    _add_predict(app, service)
    _add_protocol(app, service, "/v2/models/{model}")
    _add_protocol(app, service, "/v2/models/{model}/versions/{version}", Depends(_check_version))
    request = tensors.InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    app.openapi()["components"]["schemas"] |= request.pop("$defs") | {"InferRequest": request}  # FastAPI keeps it
    layers: ASGIApp = app
    if origins := list(service.options.origins):
        exposed = [tensors.HEADER, "retry-after"]
        layers = CORSMiddleware(app, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed)
    return with_limits(layers, service.options, service.queue, service.metrics)


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            code = "wrong_method" if error.status_code == 405 else "not_found"
            return RejectedError(code, path=request.scope["path"], method=request.method).response(error.headers)
        if isinstance(error, RequestValidationError):
            first = error.errors()[0]
            error = RejectedError("wrong_parameter", where=".".join(first["loc"]), rule=first["msg"])
        if isinstance(error, ClientDisconnect):
            error = RejectedError("client_left")
        return (error if isinstance(error, RejectedError) else RejectedError("internal")).response()

    for kind in (HTTPException, RequestValidationError, ClientDisconnect, RejectedError, Exception):
        app.add_exception_handler(kind, answer)


def _add_page(app: FastAPI, path: str, text: str, policy: str) -> None:
    headers = {"content-security-policy": f"{policy}; frame-ancestors 'none'"}
    headers["permissions-policy"] = "camera=(), microphone=(), geolocation=()"
    response = Response(text, headers=headers, media_type="text/html; charset=utf-8")

    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return response


def _home_page(networks: list[ServedNetwork]) -> tuple[str, str]:
    """The exported page with several networks, a camera and an explanation; pictures stay in the browser."""
    options = ""
    for n in sorted(networks, key=lambda network: network.facts.parameters):
        facts, chosen = html.escape(n.facts.model_dump_json()), " selected" * (n is networks[0])
        options += f'<option value="{html.escape(n.name)}" data-facts="{facts}"{chosen}>'
    _, *parts = re.split(r"<!-- (\w+) -->\n", fill_template("browser/assets/serve.html", options=options))
    contents = dict(zip(parts[::2], parts[1::2], strict=True))
    return drawing_page(networks[0].graph, contents, addition="serve", connect="'self'")


def _docs_page() -> tuple[str, str]:
    """The page that shows /openapi.json, which loads nothing from another host."""
    text = (files("tinydigits.server") / "docs.html").read_text(encoding="utf-8")
    policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'"
    for tag, content in re.findall(r"<(style|script)>(.*?)</\1>", text, re.DOTALL):
        policy += f"; {tag}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    return text, policy


def _add_states(app: FastAPI, service: Service) -> None:
    def add_probe(path: str, answer: dict[str, str] | dict[str, bool], summary: str) -> None:
        @app.get(path, summary=summary)
        async def probe(request: Request) -> dict[str, str | bool]:
            if path.endswith(("ready", "readyz")) and request.scope["state"].get("stopping"):
                raise RejectedError("stopping")
            return {**answer}

    add_probe("/healthz", {"status": "ok"}, "Is the process alive?")
    add_probe("/readyz", {"status": "ready"}, "Does it take requests?")
    add_probe("/v2/health/live", {"live": True}, "Is the process alive?")
    add_probe("/v2/health/ready", {"ready": True}, "Does it take requests?")

    @app.get("/metrics", response_class=Response, summary="Counters in Prometheus' text format")
    async def metrics() -> Response:
        text, kind = service.metrics.text()
        return Response(text, media_type=kind)

    @app.get("/v2", summary="What server this is")
    async def server() -> dict[str, str | list[str]]:
        return {"name": "tinydigits", "version": version("tinydigits"), "extensions": ["binary_tensor_data"]}

    @app.get("/models", summary="The networks that are served, the default first")
    async def models() -> list[ModelFacts]:
        return [network.facts for network in service.networks.values()]

    @app.get("/models/{model}/network", responses=rejections(404), summary="A network's graph, as the page reads it")
    async def graph(model: str) -> Response:
        return Response(network_json(service.network(model).graph), media_type="application/json")


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        response_model=PredictResponse,
        responses={**_READING, 200: {"content": {"application/json": {"example": _ANSWER}}}},
        openapi_extra={"requestBody": {"required": True, "content": _PICTURES}},
        summary="Read pictures of digits",
    )
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Its name in /models; default: the first")] = None,
        top: Annotated[int, Query(ge=1, le=10, description="How many digits of each picture are listed")] = 10,
    ) -> Response:
        """PNG or JPEG, dark on light or light on dark; or several as a form, where each may have an `error` instead."""
        network = service.network(model)
        body = await request.body()
        start = time.perf_counter()
        uploads = find_uploads(request.headers.get("content-type", ""), body)
        heavy = len(uploads) > 1 or not uploads[0].is_light()
        _, found = await service.queue.read(network, lambda: prepare(uploads), len(uploads), heavy)
        request.scope["log"] = {"model": network.name, "pictures": len(uploads)}
        pictures, seconds = predictions(uploads, found, top), time.perf_counter() - start
        content = msgspec.json.encode({"model": network.name, "time_seconds": seconds, "pictures": pictures})
        return Response(content, media_type="application/json")


def _add_protocol(app: FastAPI, service: Service, path: str, *checks: Any) -> None:
    @app.get(path, dependencies=checks, responses=rejections(404), summary="Inputs and outputs of a network")
    async def metadata(model: str) -> dict[str, str | list[str] | list[tensors.TensorMetadata]]:
        own = {"name": service.network(model).name, "platform": service.network(model).facts.engine}
        return {**own, "versions": [tensors.VERSION], "inputs": [tensors.INPUT], "outputs": tensors.OUTPUTS}

    @app.get(f"{path}/ready", dependencies=checks, responses=rejections(404), summary="Does a network take requests?")
    async def model_ready(model: str) -> dict[str, str | bool]:
        return {"name": service.network(model).name, "ready": True}

    @app.post(
        f"{path}/infer",
        dependencies=checks,
        response_model=tensors.InferResponse,
        responses={**_READING, 200: {"content": _BINARY, "headers": _LENGTH}},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": _REQUEST, **_BINARY}}},
        summary="Read tensors with a network",
    )
    async def infer(request: Request, model: str) -> Response:
        """Pictures of 28×28 as in MNIST, light ink on black, not normalized. `digit` is -1 for what is no digit."""
        network = service.network(model)
        wanted = tensors.parse_request(await request.body(), request.headers.get(tensors.HEADER))
        reading = await service.queue.read(network, lambda: wanted.images, len(wanted.images))
        request.scope["log"] = {"model": network.name, "pictures": len(wanted.images)}
        content, length = tensors.write_response(network.name, wanted, reading)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={tensors.HEADER: str(length)}, media_type="application/octet-stream")


async def _check_version(version: str) -> None:
    if version != tensors.VERSION:
        raise RejectedError("unknown_version", version=version)
