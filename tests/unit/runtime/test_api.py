import asyncio
from dataclasses import replace
from hashlib import sha256

import httpx
import numpy as np
import pytest

from eegdecode.runtime.api import BusyError, Drawn, make_api
from eegdecode.runtime.intake import ModelFact

FACT = ModelFact(
    "uri", "d", "demo", "f", ("O1",), 4, 100.0, 0.0, "gabor", 1, 1, False, (0.02, 5000.0), subjects=("01", "02")
)
BODY = (
    b"\x93NUMPY\x01\x00\x3f\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 4), }".ljust(62) + b"\n"
)
BODY += np.ones(4, "<f4").tobytes()


def post(reconstruct: object, subject: str = "") -> httpx.Response:
    app = make_api(FACT, [sha256(b"t").hexdigest()], 10_000, 4, reconstruct)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post(
                f"/v1/reconstructions?sfreq_hz=100{subject}", content=BODY, headers={"Authorization": "Bearer t"}
            )

    return asyncio.run(send())


def test_without_a_drawer_only_concepts_come() -> None:
    async def reconstruct(eeg: np.ndarray, seed: int, subject: str | None) -> Drawn:
        assert eeg.tolist() == [[[1, 1, 1, 1]]]
        return Drawn(None, [[("cat", 0.5)]])

    assert post(reconstruct).json()["trials"] == [{"picture_png": None, "concepts": [{"concept": "cat", "score": 0.5}]}]


@pytest.mark.parametrize(("said", "told"), [("&subject=02", "02"), ("&subject=3", None), ("", None)])
def test_the_model_is_told_whose_trials_they_are_if_it_knows_them(said: str, told: str | None) -> None:
    async def reconstruct(eeg: np.ndarray, seed: int, subject: str | None) -> Drawn:
        assert subject == told
        return Drawn(None, [[("cat", 0.5)]])

    assert post(reconstruct, said).json()["subject"] == told
    assert FACT.public()["subjects"] == ("01", "02")


def test_a_failing_model_tells_nothing_of_itself() -> None:
    async def reconstruct(eeg: np.ndarray, seed: int, subject: str | None) -> Drawn:
        raise RuntimeError("s3://private/path")

    answer = post(reconstruct)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "private" not in answer.text


def test_a_busy_model_says_when_to_come_back() -> None:
    async def reconstruct(eeg: np.ndarray, seed: int, subject: str | None) -> Drawn:
        raise BusyError(2.0)

    answer = post(reconstruct)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")


def test_a_server_without_tokens_is_refused() -> None:
    for hashes in ([], ["plain token"]):
        with pytest.raises(ValueError, match="sha256"):
            make_api(replace(FACT), hashes, 1, 1, None)  # type: ignore[arg-type]
