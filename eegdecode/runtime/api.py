"""The HTTP side of serving, as a FastAPI application around any function that turns trials into pictures.

No Ray and no torch here: who may ask, what may come in, and how the answer looks.
"""

import base64
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fastapi import FastAPI, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from PIL import Image

from eegdecode.runtime.intake import (
    ModelFact,
    RequestError,
    check_rate,
    check_token,
    known_subject,
    parse_seed,
    parse_trials,
)

CONTENT_TYPES = ("application/x-npy", "application/octet-stream")
_SAYS_NOTHING = ("", "*/*")


@dataclass(frozen=True)
class Drawn:
    """What a model makes of one request.

    Attributes
    ----------
    pictures_NHW3
        uint8; None where the bundle has no drawer.
    concepts
        Per trial the best concepts with their scores, best first.
    """

    pictures_NHW3: np.ndarray | None
    concepts: list[list[tuple[str, float]]]


class BusyError(Exception):
    """The queue is full; `retry_after_s` is when to try again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


def make_api(
    fact: ModelFact,
    token_hashes: Sequence[str],
    max_body_bytes: int,
    max_trials: int,
    reconstruct: Callable[[np.ndarray, int, str | None], Awaitable[Drawn]],
) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    token_hashes
        sha256 hex digests of the tokens that may ask.
    reconstruct
        Takes float32 (trials, chans, times) in microvolt, a seed, and the subject, None for one the model does not
        know. May raise `BusyError`.

    Raises
    ------
    ValueError
        Without a token nobody could ask, and without a check anybody could.
    """
    if not token_hashes or not all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in token_hashes):
        raise ValueError("token_hashes must be sha256 hex digests (64 characters), at least one.")
    app = FastAPI(title="eegdecode", description="Pictures and concepts from EEG trials.", version="1")
    # The check itself is ours (it answers with what was expected); this puts the scheme into the OpenAPI page.
    bearer = Security(HTTPBearer(auto_error=False, description="Token of the server."))

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return JSONResponse(error.problem(), error.status, headers, media_type="application/problem+json")

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        wait = str(max(1, round(error.retry_after_s)))
        problem = RequestError(
            429, "Busy", "The queue is full.", f"another try after {wait} s (Retry-After)."
        ).problem()
        return JSONResponse(problem, 429, {"Retry-After": wait}, media_type="application/problem+json")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        # What went wrong is in the replica's log; it may tell more than a client should know.
        problem = {"type": "about:blank", "status": 500, "title": "Server error", "detail": "The model failed."}
        return JSONResponse(problem, 500, media_type="application/problem+json")

    @app.get("/healthz", summary="Whether the model is loaded; needs no token")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models", summary="What is served and what it takes", dependencies=[bearer])
    async def models(request: Request) -> dict[str, object]:
        check_token(request.headers.get("authorization"), token_hashes)
        limits = {"max_trials": max_trials, "max_body_bytes": max_body_bytes}
        return {"models": [fact.public() | limits]}

    @app.post(
        "/v1/reconstructions",
        summary="Trials to pictures and concepts",
        dependencies=[bearer],
        openapi_extra=_documented(fact, max_trials),
    )
    async def reconstructions(request: Request) -> Response:
        check_token(request.headers.get("authorization"), token_hashes)
        check_rate(_stated(request, "sfreq_hz"), fact)
        seed = parse_seed(_stated(request, "seed"))
        subject = known_subject(_stated(request, "subject"), fact)
        _check_content_type(request.headers.get("content-type", ""))
        body = await read_body(request, max_body_bytes)
        eeg_uv_NCT = await run_in_threadpool(parse_trials, body, fact, max_trials)
        drawn = await reconstruct(eeg_uv_NCT, seed, subject)
        return JSONResponse(await run_in_threadpool(_answer, drawn, fact, seed, subject))

    return app


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """Return the body, reading no further than the limit: what a client declares is checked, and what it sends.

    Raises
    ------
    RequestError
        413.
    """
    expected = f"at most {max_body_bytes} bytes; send the trials in several requests."
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_body_bytes:
        raise RequestError(413, "Too many bytes", f"The body has {declared[:20]} bytes.", expected)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_body_bytes:
            raise RequestError(413, "Too many bytes", f"More than {max_body_bytes} bytes came.", expected)
    return bytes(body)


def _stated(request: Request, name: str) -> str | None:
    """Return a value from the query, or from the header of that name with dashes."""
    return request.query_params.get(name) or request.headers.get(f"x-{name.replace('_', '-')}")


def _check_content_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (*CONTENT_TYPES, *_SAYS_NOTHING):
        raise RequestError(
            415, "Wrong content type", f"Content-Type is {kind[:80]!r}.", f"Content-Type: {' or '.join(CONTENT_TYPES)}."
        )


def _answer(drawn: Drawn, fact: ModelFact, seed: int, subject: str | None) -> dict[str, object]:
    pictures = [None] * len(drawn.concepts) if drawn.pictures_NHW3 is None else [_png(p) for p in drawn.pictures_NHW3]
    trials = [
        {"picture_png": picture, "concepts": [{"concept": name, "score": score} for name, score in concepts]}
        for picture, concepts in zip(pictures, drawn.concepts, strict=True)
    ]
    asked = {"seed": seed, "subject": subject}
    return {"bundle": fact.digest, "recipe": fact.recipe, "fold": fact.fold, **asked, "trials": trials}


def _png(picture_HW3: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture_HW3).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def _documented(fact: ModelFact, max_trials: int) -> dict[str, object]:
    """Return what FastAPI can not see, because the body is read as bytes."""
    shape = f"(1 to {max_trials} trials, {len(fact.channels)} chans, {fact.n_times} times)"
    problem = {"content": {"application/problem+json": {"schema": {"type": "object"}}}}
    reasons = {
        "400": "no .npy file, or a cut one",
        "401": "no token, or a wrong one",
        "413": "too many bytes or trials",
        "415": "wrong content type or dtype; pickles are never read",
        "422": "wrong shape, rate, seed or unit, or NaN",
        "429": "the queue is full; see Retry-After",
    }
    return {
        "parameters": [
            {
                "name": "sfreq_hz",
                "in": "query",
                "required": True,
                "schema": {"type": "number"},
                "description": f"Rate of the trials; must be {fact.sfreq_hz:g}.",
            },
            {"name": "seed", "in": "query", "schema": {"type": "integer", "default": 0, "minimum": 0}},
            {
                "name": "subject",
                "in": "query",
                "schema": {"type": "string"},
                "description": "Whose trials they are: one of the subjects of /v1/models; anybody else is decoded as "
                "a person that training did not see, and the answer's subject is null.",
            },
        ],
        "requestBody": {
            "required": True,
            "description": f".npy, float32 {shape} in microvolt from {fact.tmin_s:g} s; "
            "chans in the order of /v1/models.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in CONTENT_TYPES},
        },
        "responses": {status: {"description": why, **problem} for status, why in reasons.items()},
    }
