"""The application: every route, and how what goes wrong is answered."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from tinydigits.shipping.html import network_json
from tinydigits.shipping.serve import openapi
from tinydigits.shipping.serve.guard import allowed, guarded
from tinydigits.shipping.serve.page import serve_page
from tinydigits.shipping.serve.predicting import add_predict
from tinydigits.shipping.serve.protocol import add_protocol
from tinydigits.shipping.serve.refusals import RefusedError, json_response
from tinydigits.shipping.serve.service import Service

_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?")
_CODES = {404: "not_found", 405: "wrong_method"}


def create_app(service: Service) -> ASGIApp:
    """All of it, as an ASGI application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.pool.shutdown()

    app = FastAPI(
        title="tinydigits",
        version=version("tinydigits"),
        description=openapi.DESCRIPTION,
        docs_url=None,  # these pages load from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    _add_errors(app)
    _add_page(app, service)
    _add_states(app, service)
    _add_models(app, service)
    add_predict(app, service)
    add_protocol(app, service)
    if not service.options.origins:
        return guarded(app, service)
    return guarded(CORSMiddleware(app, **allowed(service.options.origins)), service)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        path, method = request.scope["path"], request.method
        sentence = f"{path}: there is nothing here. See /openapi.json for what there is."
        if error.status_code == 405:
            sentence = f"{path} does not take {method}. See /openapi.json for what it takes."
        code = _CODES.get(error.status_code, "refused")
        return RefusedError(error.status_code, code, sentence, error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return RefusedError(
            400, "wrong_parameter", f"{place}: {first['msg']}. See /openapi.json for the rule."
        ).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return RefusedError(500, "internal", "The server has failed; its log says why. Report that.").response()


def _add_page(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        text, policy = serve_page(service.networks, _address(request))
        headers = {"content-security-policy": policy, "permissions-policy": "camera=(), microphone=(), geolocation=()"}
        return Response(text, headers=headers, media_type="text/html; charset=utf-8")


def _address(request: Request) -> str:
    """Where the browser found this server, if what it says is an address."""
    host = request.headers.get("host", "")
    return f"{request.scope['scheme']}://{host if _HOST.fullmatch(host) else 'localhost'}"


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", **openapi.STATUS, summary="Is the process alive?")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @app.get("/readyz", **openapi.STATUS, summary="Does it take requests?")
    async def readyz() -> Response:
        if service.stopping:
            raise RefusedError(503, "stopping", "The server is stopping. Ask another one.")
        return json_response({"status": "ready"})

    @app.get(
        "/metrics",
        summary="What was counted, for Prometheus",
        responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {}}}}},
    )
    async def metrics() -> Response:
        text, kind = service.metrics.text()
        return Response(text, media_type=kind)


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/models", **openapi.MODELS, summary="The networks that are served, the default first")
    async def models() -> Response:
        return json_response([network.facts() for network in service.networks.values()])

    @app.get("/models/{model}/network", **openapi.NETWORK, summary="A network's graph, as the page runs it")
    async def network(model: str) -> Response:
        return Response(network_json(service.network(model).graph), media_type="application/json")
