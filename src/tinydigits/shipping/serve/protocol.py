"""The routes of the Open Inference Protocol, version 2. Networks have one version, "1"."""

from importlib.metadata import version

from fastapi import Depends, FastAPI, Request, Response

from tinydigits.shipping.serve import openapi
from tinydigits.shipping.serve.guard import body_of, note
from tinydigits.shipping.serve.refusals import RefusedError, json_response
from tinydigits.shipping.serve.service import Service
from tinydigits.shipping.serve.tensors import HEADER, INPUT, OUTPUTS, parse_request, write_answer

VERSION = "1"


def add_protocol(app: FastAPI, service: Service) -> None:
    """Add the routes."""
    _add_server(app, service)
    for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        _add_model(app, service, place)


def _add_server(app: FastAPI, service: Service) -> None:
    @app.get("/v2", **openapi.SERVER, summary="What server this is")
    async def server() -> Response:
        document = {"name": "tinydigits", "version": version("tinydigits"), "extensions": ["binary_tensor_data"]}
        return json_response(document)

    @app.get("/v2/health/live", **openapi.LIVE, summary="Is the process alive?")
    async def live() -> Response:
        return json_response({"live": True})

    @app.get("/v2/health/ready", **openapi.READY, summary="Does it take requests?")
    async def ready() -> Response:
        if service.stopping:
            raise RefusedError(503, "stopping", "The server is stopping. Ask another one.")
        return json_response({"ready": True})


def _add_model(app: FastAPI, service: Service, place: str) -> None:
    versioned = "{version}" in place
    name = " of a version" if versioned else ""
    checks = [Depends(_check_version)] if versioned else []

    @app.get(place, dependencies=checks, **openapi.METADATA, summary=f"Inputs and outputs of a network{name}")
    async def metadata(model: str) -> Response:
        network = service.network(model)
        return json_response(
            {
                "name": network.name,
                "versions": [VERSION],
                "platform": network.engine,
                "inputs": [INPUT],
                "outputs": OUTPUTS,
            }
        )

    @app.get(
        f"{place}/ready", dependencies=checks, **openapi.MODEL_READY, summary=f"Does a network{name} take requests?"
    )
    async def model_ready(model: str) -> Response:
        network = service.network(model)
        return json_response({"name": network.name, "ready": True})

    @app.post(f"{place}/infer", dependencies=checks, **openapi.INFER, summary=f"Read tensors with a network{name}")
    async def infer(request: Request, model: str) -> Response:
        """Pictures of 28×28 as MNIST has them, light ink on black, unprepared: JSON, or JSON and binary tensors.

        Outputs: `logits`, `probabilities` (calibrated), and `digit`, which is -1 for what is no digit.
        """
        network = service.network(model)
        asked = parse_request(body_of(request), request.headers.get(HEADER))
        with service.capacity.work(len(asked.images)):
            reading = await service.batcher(network).read(lambda: asked.images, len(asked.images))
        note(request, model=network.name, pictures=len(asked.images))
        content, length = write_answer(network.name, asked, reading)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER: str(length)}, media_type="application/octet-stream")


async def _check_version(version: str) -> None:
    if version != VERSION:
        raise RefusedError(
            404, "unknown_version", f"Version {version!r} is not served: networks have the version {VERSION}."
        )
