"""A real bundle behind Ray Serve, called over HTTP."""

import base64
import io
import json
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eegdecode import bundle
from eegdecode.batch import Fold, TargetFact
from eegdecode.config import Experiment
from eegdecode.diffusion.drawer import Drawer
from eegdecode.models.decoder import build_decoder
from eegdecode.reconstruct.reconstructor import Reconstructor
from eegdecode.runtime.cluster import ClusterAddress
from eegdecode.runtime.processes import free_ports
from eegdecode.runtime.serve import ServeOptions, build_app, running, token_hash

pytestmark = pytest.mark.ray
TOKEN = "a token of this test"
CHANNELS, N_TIMES, DIM = ("O1", "Oz", "O2", "POz"), 16, 8
MAX_BODY, MAX_TRIALS = 40_000, 64


def tiny_bundle() -> bundle.Bundle:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    experiment = Experiment(recipe="tiny").override({"encoder.name": "linear"})
    # Two steps and a narrow UNet: what is served here is real and untrained.
    drawer = Drawer(DIM, px=16, width=8, sampler_steps=2)
    return bundle.Bundle(
        experiment=experiment,
        fact=bundle.BundleFact(
            manifest_digest="0" * 64,
            targets_digest="0" * 64,
            fold=Fold(name="concepts", by="concept", train=("a",), val=(), test=("b",)),
            channels=CHANNELS,
            sfreq_hz=100.0,
            tmin_s=0.0,
            n_times=N_TIMES,
            target=TargetFact(tower="gabor", layer="", revision="1", preprocessing="", dim=DIM),
            step=1,
            val_score=None,
        ),
        decoder=build_decoder("linear", len(CHANNELS), N_TIMES, DIM, 0.0, 0.07, True).eval(),
        bridge_weight_ED=np.eye(DIM, dtype=np.float32),
        bridge_bias_D=np.zeros(DIM, dtype=np.float32),
        gallery=bundle.Gallery(
            tuple(f"p{k}" for k in range(12)),
            tuple(f"c{k % 6}" for k in range(12)),
            rng.normal(size=(12, DIM)).astype(np.float32),
        ),
        drawer=drawer,
    )


def trials(n: int = 3) -> np.ndarray:
    return np.random.default_rng(n).normal(0, 10, (n, len(CHANNELS), N_TIMES)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def ask(url: str, body: bytes | None = None, token: str | None = TOKEN, **headers: str) -> tuple[int, dict, dict]:
    """Status, headers and JSON of an answer."""
    sent = ({"Authorization": f"Bearer {token}"} if token else {}) | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    if body is not None:
        sent.setdefault("Content-Type", "application/x-npy")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, sent), timeout=60) as answer:
            return answer.status, lower(answer.headers), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, lower(error.headers), json.load(error)


@pytest.fixture(scope="module")
def served(
    ray_cluster: ClusterAddress, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Reconstructor]]:
    uri = str(tmp_path_factory.mktemp("bundle") / "tiny")
    made = tiny_bundle()
    digest = bundle.save(uri, made)
    options = ServeOptions(max_body_bytes=MAX_BODY, max_trials=MAX_TRIALS, max_queued=1)
    start = time.monotonic()
    with running(build_app(uri, [token_hash(TOKEN)], options), ray_cluster.address, free_ports(1)[0]) as url:
        print(f"served after {time.monotonic() - start:.1f} s")
        yield url, Reconstructor(replace(made, digest=digest))


def test_pictures_and_concepts_equal_those_of_the_batch_job(served: tuple[str, Reconstructor]) -> None:
    url, reconstructor = served
    eeg = trials()
    status, _, answer = ask(f"{url}/v1/reconstructions?sfreq_hz=100&seed=7", npy(eeg))
    assert status == 200
    assert answer["bundle"] == reconstructor.bundle.digest
    z_ND = reconstructor.embed(eeg)
    drawn = reconstructor.draw(z_ND, seed=7)
    assert len(np.unique(drawn)) > 10
    expected = reconstructor.top_concepts(z_ND)
    for k, trial in enumerate(answer["trials"]):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(trial["picture_png"]))))
        np.testing.assert_array_equal(picture, drawn[k])
        assert [c["concept"] for c in trial["concepts"]] == [name for name, _ in expected[k]]
        np.testing.assert_allclose([c["score"] for c in trial["concepts"]], [score for _, score in expected[k]])
    assert len(answer["trials"]) == 3
    assert all(len(trial["concepts"]) == 5 for trial in answer["trials"])
    # The seed is 0 unless it is said; another seed draws another picture.
    unsaid = ask(f"{url}/v1/reconstructions?sfreq_hz=100", npy(eeg))[2]
    assert unsaid == ask(f"{url}/v1/reconstructions", npy(eeg), X_Sfreq_Hz="100", X_Seed="0")[2]
    assert unsaid["trials"][0]["picture_png"] != answer["trials"][0]["picture_png"]


def test_what_is_open_and_what_is_not(served: tuple[str, Reconstructor]) -> None:
    url, _ = served
    assert ask(f"{url}/healthz", token=None)[0] == 200
    status, _, page = ask(f"{url}/openapi.json", token=None)
    assert status == 200
    assert "application/x-npy" in page["paths"]["/v1/reconstructions"]["post"]["requestBody"]["content"]
    for token in (None, "another", token_hash(TOKEN)):
        for path, body in (("/v1/models", None), ("/v1/reconstructions?sfreq_hz=100", npy(trials()))):
            status, headers, problem = ask(url + path, body, token)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert "Bearer <token>" in problem["expected"]
    models = ask(f"{url}/v1/models")[2]["models"]
    assert models[0]["channels"] == list(CHANNELS)
    assert models[0]["max_trials"] == MAX_TRIALS


def volts() -> bytes:
    return npy(trials() * np.float32(1e-6))


def with_nan() -> bytes:
    eeg = trials()
    eeg[1, 2, 3] = np.nan
    return npy(eeg)


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


BAD = {
    "no npy": ("sfreq_hz=100", b"hello", {}, 400, "float32"),
    "cut": ("sfreq_hz=100", npy(trials())[:-4], {}, 400, "float32"),
    "pickle": ("sfreq_hz=100", pickled(), {}, 415, "float32"),
    "dtype": ("sfreq_hz=100", npy(trials().astype(np.float64)), {}, 415, "float32"),
    "content type": ("sfreq_hz=100", npy(trials()), {"Content_Type": "application/json"}, 415, "application/x-npy"),
    "shape": ("sfreq_hz=100", npy(trials()[:, :3].copy()), {}, 422, "4 chans, 16 times"),
    "rate": ("sfreq_hz=250", npy(trials()), {}, 422, "sfreq_hz=100"),
    "no rate": ("seed=1", npy(trials()), {}, 422, "sfreq_hz=100"),
    "seed": ("sfreq_hz=100&seed=-1", npy(trials()), {}, 422, "integer from 0"),
    "NaN": ("sfreq_hz=100", with_nan(), {}, 422, "finite"),
    "volts": ("sfreq_hz=100", volts(), {}, 422, "microvolt"),
    "trials": ("sfreq_hz=100", npy(trials(MAX_TRIALS + 1)), {}, 413, "1 to 64 trials"),
    "bytes": ("sfreq_hz=100", b"x" * (MAX_BODY + 1), {}, 413, "at most 40000 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_say_what_was_expected(case: str, served: tuple[str, Reconstructor]) -> None:
    query, body, headers, status, expected = BAD[case]
    got, answer_headers, problem = ask(f"{served[0]}/v1/reconstructions?{query}", body, **headers)
    assert (got, problem["status"]) == (status, status)
    assert answer_headers["content-type"] == "application/problem+json"
    assert expected in problem["expected"]


def test_bytes_are_counted_when_no_length_is_declared(served: tuple[str, Reconstructor]) -> None:
    import httpx

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/x-npy"}
    answer = httpx.post(f"{served[0]}/v1/reconstructions?sfreq_hz=100", content=endless(), headers=headers, timeout=60)
    assert answer.status_code == 413


def test_a_full_queue_answers_429_and_healthz_still_answers(served: tuple[str, Reconstructor]) -> None:
    url, _ = served
    body = npy(trials(MAX_TRIALS))
    gate = threading.Barrier(10)

    def one(_: int) -> tuple[int, dict, dict]:
        gate.wait()
        return ask(f"{url}/v1/reconstructions?sfreq_hz=100", body)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(one, range(10)))
    assert {status for status, _, _ in answers} == {200, 429}
    for status, headers, _ in answers:
        if status == 429:
            assert int(headers["retry-after"]) >= 1
    served_ones = [answer for status, _, answer in answers if status == 200]
    assert all(answer == served_ones[0] for answer in served_ones)
    assert ask(f"{url}/healthz", token=None)[0] == 200


def test_time_of_a_request(served: tuple[str, Reconstructor]) -> None:
    url, _ = served
    body, seconds = npy(trials(1)), []
    for _ in range(20):
        start = time.perf_counter()
        assert ask(f"{url}/v1/reconstructions?sfreq_hz=100", body)[0] == 200
        seconds.append(time.perf_counter() - start)
    print(f"one trial over HTTP: p50 {1000 * statistics.median(seconds):.0f} ms, worst {1000 * max(seconds):.0f} ms")


def test_a_folder_without_a_bundle_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no bundle\.json"):
        build_app(str(tmp_path), [token_hash(TOKEN)])
