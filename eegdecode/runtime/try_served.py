"""Serve the bundle that was just trained, ask it over HTTP, and hold its pictures against the batch job's."""

import base64
import io
import json
import secrets
import time

import httpx
import numpy as np

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.data.shardset import read_manifest
from eegdecode.evaluate.report import ServingFact
from eegdecode.runtime import places, serve
from eegdecode.runtime.cluster import ClusterAddress
from eegdecode.runtime.processes import free_ports
from eegdecode.runtime.progress import Progress, say

REQUESTS = 12
TRIALS_PER_REQUEST = 2


def try_served(experiment: Experiment, cluster: ClusterAddress) -> ServingFact:
    """Serve the first fold's bundle and ask for pictures of the trials that the batch job drew from.

    Raises
    ------
    RuntimeError
        The application does not come up.
    """
    manifest = read_manifest(places.shards(experiment))
    folder = storage.join(places.report(experiment), "drawings")
    eeg_uv_QCT = np.load(io.BytesIO(storage.read_bytes(storage.join(folder, "eeg_uv.npy"))), allow_pickle=False)
    subjects = json.loads(storage.read_bytes(storage.join(folder, "subjects.json")))
    token = secrets.token_urlsafe(32)
    app = serve.build_app(served_bundle(experiment), [serve.token_hash(token)])
    milliseconds, errors, equal = [], 0, True
    with (
        serve.running(app, cluster.address, free_ports(1)[0]) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as client,
    ):
        progress = Progress("serve: ask", REQUESTS, "requests")
        for start in _starts(len(eeg_uv_QCT)):
            wanted = range(start, min(start + TRIALS_PER_REQUEST, len(eeg_uv_QCT)))
            rows = [row for row in wanted if subjects[row] == subjects[start]]  # a request is of one person
            body = io.BytesIO()
            np.save(body, eeg_uv_QCT[rows])
            began = time.monotonic()
            answer = client.post(
                "/v1/reconstructions",
                params={
                    "sfreq_hz": manifest.sfreq_hz,
                    "seed": experiment.drawer.seed,
                    "subject": subjects[start],
                },
                content=body.getvalue(),
                headers={"Content-Type": "application/x-npy"},
            )
            milliseconds.append(1000 * (time.monotonic() - began))
            if answer.status_code != 200:
                errors += 1
                say(f"serve: {answer.status_code} {answer.text[:300]}")
                continue
            for row, trial in zip(rows, answer.json()["trials"], strict=True):
                kept = storage.read_bytes(storage.join(folder, f"{row:04d}.png"))
                equal &= np.array_equal(_pixels(base64.b64decode(trial["picture_png"])), _pixels(kept))
            progress.add()
        progress.close()
    fact = ServingFact(
        requests=len(milliseconds),
        errors=errors,
        p50_ms=round(float(np.percentile(milliseconds, 50)), 1),
        p95_ms=round(float(np.percentile(milliseconds, 95)), 1),
        equal_to_batch_job=equal and errors == 0,
    )
    same = "equal to" if fact.equal_to_batch_job else "different from"
    pictures = f"pictures {same} the batch job's"
    say(f"serve: {fact.requests} requests, {fact.errors} errors, p50 {fact.p50_ms:.0f} ms, {pictures}")
    return fact


def served_bundle(experiment: Experiment) -> str:
    """Return the bundle that is served: the first fold's, from which the kept drawings come."""
    folds = places.open_set(experiment, verify=False).folds
    return places.bundle(experiment, next(fold.name for fold in folds if fold.by == experiment.protocol.split_by))


def _starts(n: int) -> list[int]:
    """Return where requests begin, spread over all queries."""
    return sorted({int(s) for s in np.linspace(0, max(n - TRIALS_PER_REQUEST, 0), REQUESTS)})


def _pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
