"""`POST /predict`: pictures in, the JSON of `tinydigits predict` out."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from tinydigits.shipping.predict import Answer, Picture
from tinydigits.shipping.serve import openapi
from tinydigits.shipping.serve.batching import Batcher
from tinydigits.shipping.serve.guard import body_of, note
from tinydigits.shipping.serve.pictures import Upload, uploads
from tinydigits.shipping.serve.refusals import RefusedError, json_response
from tinydigits.shipping.serve.service import Service

_TOGETHER = 8  # pictures of one request that wait at a time, so that others come in between


def add_predict(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.post("/predict", **openapi.PREDICT, summary="Read pictures of digits")
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Its name in /models; default: the first")] = None,
        top: Annotated[int, Query(ge=1, le=10, description="How many digits are told of each picture")] = 10,
    ) -> Response:
        """PNG or JPEG, of any size up to a million pixels, dark on light or light on dark; or several as a form.

        Of several pictures those that can be read are answered, and the others carry an `error`. If none can be, the
        request is refused with the status of the first.
        """
        network = service.network(model)
        body = body_of(request)
        start = time.perf_counter()
        found = uploads(request.headers.get("content-type", ""), body)
        with service.capacity.work(len(found)):
            answers = await _answers(found, service.batcher(network), service)
        note(request, model=network.name, pictures=len(found))
        return json_response(
            {
                "model": network.name,
                "time_seconds": round(time.perf_counter() - start, 6),
                "pictures": [answer.as_dict(top) for answer in answers],
            }
        )


async def _answers(found: Sequence[Upload], batcher: Batcher, service: Service) -> list[Answer]:
    if len(found) == 1:
        return [await _answer(found[0], batcher, service)]
    answers: list[Answer | BaseException] = []
    for first in range(0, len(found), _TOGETHER):
        waiting = [_answer(upload, batcher, service) for upload in found[first : first + _TOGETHER]]
        answers += await asyncio.gather(*waiting, return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, BaseException)]
    if unexpected := [error for error in refusals if not isinstance(error, RefusedError)]:
        raise unexpected[0]
    if len(refusals) == len(found):
        raise refusals[0]
    return [
        Answer(Picture(upload.name, error=str(answer)), rejected=None) if isinstance(answer, BaseException) else answer
        for upload, answer in zip(found, answers, strict=True)
    ]


async def _answer(upload: Upload, batcher: Batcher, service: Service) -> Answer:
    if not upload.is_light():
        await asyncio.get_running_loop().run_in_executor(service.pool, upload.prepare)
    reading = await batcher.read(upload.images, 1)
    picture = upload.prepare()
    if picture.image is None:
        return Answer(picture, rejected=True)
    return Answer(picture, bool(reading.predictions.rejected[0]), reading.predictions.scores[0])
