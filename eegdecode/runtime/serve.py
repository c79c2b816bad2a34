"""A bundle as a Ray Serve application: `make serve`, the demo's served pictures, and KubeRay's RayService.

Two deployments: `Api` takes requests, `Model` holds the bundle (a replica per GPU or core) and works on one request at
a time. `Reconstructor` runs in chunks of one fixed size; requests are not mixed into one chunk, because the last bits
of a matrix product depend on the row, and a served picture must equal the batch job's whoever else is asking.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
from pydantic import Field
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError

from eegdecode import storage
from eegdecode.config import Section
from eegdecode.runtime.api import BusyError, Drawn, make_api
from eegdecode.runtime.cluster import connect, one_machine
from eegdecode.runtime.intake import ModelFact
from eegdecode.runtime.processes import last_lines

TOKEN_HASHES_ENV = "EEGDECODE_TOKEN_SHA256"
RETRY_AFTER_S = 2.0
TOP_K = 5
APP = "eegdecode"


class ServeOptions(Section):
    """Sizes and limits of a served bundle; none of them changes an answer."""

    replicas: int = Field(1, ge=1)
    cpus_per_replica: float = Field(1.0, gt=0)
    gpus_per_replica: float = Field(0.0, ge=0)
    max_body_bytes: int = Field(16 << 20, ge=1024)
    max_trials: int = Field(64, ge=1)
    """Trials of one request."""
    max_queued: int = Field(32, ge=1)
    """Requests that may wait for the model; one more is answered 429."""


class ServedModel(Protocol):
    """What `Model` holds."""

    @property
    def fact(self) -> ModelFact:
        """What it is and takes."""

    def reconstruct(self, eeg_uv_NCT: np.ndarray, seed: int, subject: str | None) -> Drawn:
        """Return pictures and concepts of trials."""


class BundleModel:
    """A bundle behind the surface that is served."""

    def __init__(self, bundle_uri: str) -> None:
        from eegdecode import bundle
        from eegdecode.reconstruct.reconstructor import PLAUSIBLE_UV, Reconstructor

        loaded = bundle.load(bundle_uri)
        self._reconstructor = Reconstructor(loaded)
        concepts = set(loaded.gallery.concepts)
        self._k = min(TOP_K, len(concepts))
        self.fact = ModelFact(
            bundle=bundle_uri,
            digest=loaded.digest,
            recipe=loaded.experiment.recipe,
            fold=loaded.fact.fold.name,
            channels=loaded.fact.channels,
            n_times=loaded.fact.n_times,
            sfreq_hz=loaded.fact.sfreq_hz,
            tmin_s=loaded.fact.tmin_s,
            target=loaded.fact.target.tower,
            concepts=len(concepts),
            pictures=len(loaded.gallery.pictures),
            draws=loaded.drawer is not None,
            plausible_uv=PLAUSIBLE_UV,
            unit=loaded.fact.unit,
            subjects=loaded.fact.subjects,
        )

    def reconstruct(self, eeg_uv_NCT: np.ndarray, seed: int, subject: str | None) -> Drawn:
        """Return pictures and concepts of trials."""
        z_ND = self._reconstructor.embed(eeg_uv_NCT, subject=subject)
        pictures = self._reconstructor.draw(z_ND, seed) if self.fact.draws else None
        return Drawn(pictures, self._reconstructor.top_concepts(z_ND, self._k))


class Model:
    """Deployment that holds the model; its work runs in a thread, so that the replica stays responsive."""

    def __init__(self, load: Callable[[], ServedModel]) -> None:
        self._model = load()

    async def fact(self) -> ModelFact:
        """Return what is served."""
        return self._model.fact

    async def reconstruct(self, eeg_uv_NCT: np.ndarray, seed: int, subject: str | None) -> Drawn:
        """Return pictures and concepts of one request."""
        return await asyncio.to_thread(self._model.reconstruct, eeg_uv_NCT, seed, subject)


@serve.ingress()
class Api:
    """Deployment that takes requests: tokens, checks, and the answer."""

    def __init__(self, model: Any, token_hashes: tuple[str, ...], options: ServeOptions) -> None:
        self._model, self._token_hashes, self._options = model, token_hashes, options

    async def __serve_build_asgi_app__(self) -> Any:
        """Build the application in the replica, once the model says what it is."""
        fact = await self._model.fact.remote()
        return make_api(
            fact, self._token_hashes, self._options.max_body_bytes, self._options.max_trials, self._reconstruct
        )

    async def _reconstruct(self, eeg_uv_NCT: np.ndarray, seed: int, subject: str | None) -> Drawn:
        try:
            drawn: Drawn = await self._model.reconstruct.remote(eeg_uv_NCT, seed, subject)
        except BackPressureError as full:
            raise BusyError(RETRY_AFTER_S) from full
        return drawn


def app_of(load: Callable[[], ServedModel], token_hashes: Sequence[str], options: ServeOptions) -> serve.Application:
    """Return the Serve application around whatever `load` returns in the replica."""
    backpressure = BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S)
    model = serve.deployment(
        Model,
        num_replicas=options.replicas,
        max_ongoing_requests=1,
        max_queued_requests=options.max_queued,
        backpressure_config=backpressure,
        ray_actor_options={"num_cpus": options.cpus_per_replica, "num_gpus": options.gpus_per_replica},
    )
    # Wide enough that it is the model's queue which fills first and is answered in our words; narrow enough that the
    # bodies that wait can not fill the memory.
    wide = 2 * (options.max_queued + options.replicas) + 16
    api = serve.deployment(
        Api,
        max_ongoing_requests=wide,
        max_queued_requests=wide,
        backpressure_config=backpressure,
        ray_actor_options={"num_cpus": 0.1},
    )
    return api.bind(model.bind(load), tuple(token_hashes), options)


def build_app(bundle_uri: str, token_hashes: Sequence[str], options: ServeOptions | None = None) -> serve.Application:
    """Return the Serve application of a bundle.

    Parameters
    ----------
    bundle_uri
        Of one bundle; there is no "latest".
    token_hashes
        sha256 hex digests of the tokens that may ask.

    Raises
    ------
    ValueError
        No bundle is there; said here, because Serve would try a replica several times first.
    """
    path = storage.local_path(bundle_uri)
    uri = bundle_uri if path is None else str(path.resolve())
    if not storage.exists(storage.join(uri, "bundle.json")):
        raise ValueError(f"{bundle_uri} holds no bundle.json: train first, or give the address of a bundle.")
    return app_of(partial(BundleModel, uri), token_hashes, options or ServeOptions())


def from_config(args: dict[str, Any]) -> serve.Application:
    """Return the application of a Serve config file: `bundle_uri` and fields of `ServeOptions`.

    The token hashes come from the environment (a Kubernetes secret), comma-separated.
    """
    hashes = [h.strip() for h in os.environ.get(TOKEN_HASHES_ENV, "").split(",") if h.strip()]
    if not hashes:
        raise ValueError(f"{TOKEN_HASHES_ENV} must hold the sha256 of at least one token, got nothing.")
    options = {name: value for name, value in args.items() if name != "bundle_uri"}
    return build_app(args["bundle_uri"], hashes, ServeOptions.model_validate(options))


@contextmanager
def running(app: serve.Application, address: str, port: int) -> Iterator[str]:
    """Serve an application on a cluster while the block lasts, and give its URL.

    Parameters
    ----------
    address
        Of the cluster, `host:port`.
    port
        Where this machine's proxy listens, on 127.0.0.1.

    Raises
    ------
    RuntimeError
        The application does not come up.
    """
    ours = not ray.is_initialized()
    if ours:
        connect(address)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        try:
            serve.run(app, name=APP, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            parts = serve.status().applications[APP].deployments.items()
            why = "\n".join(f"{name}: {last_lines(part.message, 3)}" for name, part in parts if part.message)
            raise RuntimeError(f"{error}\n{why}") from None
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        if ours:
            ray.shutdown()


def token_of(path: Path) -> str:
    """Return the token in a file, made (mode 600) if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(token)
    return token


def token_hash(token: str) -> str:
    """Return the digest that a server keeps of a token."""
    return sha256(token.encode()).hexdigest()


def main() -> None:
    """Serve a bundle on a cluster of this machine until it is stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bundle", required=True, help="address of a bundle")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=Path, default=Path("runs/serve"), help="takes the token and Ray's log")
    args = parser.parse_args()
    token_path = args.folder / "token"
    try:
        app = build_app(args.bundle, [token_hash(token_of(token_path))])
    except (ValueError, storage.StorageError) as error:
        raise SystemExit(str(error)) from None
    with (
        one_machine(os.cpu_count() or 1, args.folder) as cluster,
        running(app, cluster.address, args.port) as url,
    ):
        sys.stdout.write(
            f"{args.bundle} is served at {url}; its API is described at {url}/docs.\n"
            f"The token is in {token_path}. Try it (trials.npy: float32, trials x chans x times, microvolt):\n"
            f'  curl -H "Authorization: Bearer $(cat {token_path})" {url}/v1/models\n'
            f'  curl -H "Authorization: Bearer $(cat {token_path})" -H "Content-Type: application/x-npy" '
            f"--data-binary @trials.npy '{url}/v1/reconstructions?sfreq_hz=100&seed=0'\n"
            "Ctrl-C stops it.\n"
        )
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    # Imported by name, so that what travels to the replicas is this module and not `__main__`.
    from eegdecode.runtime.serve import main as run

    run()
