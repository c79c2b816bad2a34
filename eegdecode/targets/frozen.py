"""What all frozen networks share: where their weights lie, what these hash to, and how they run.

Always in eval mode, in float32, without gradients. Shape letters: N item, S what is made of it.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

T = TypeVar("T")


def device() -> torch.device:
    """Return the device that frozen networks run on here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def freeze(net: Any) -> Any:
    """Return the network in eval mode, without gradients, on its device."""
    return net.eval().requires_grad_(False).to(device())


def one_by_one(
    items: Sequence[T],
    prepare: Callable[[T], torch.Tensor],
    run: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """Run a network over prepared items, one at a time, float32 (N, *shape).

    The last bits of a convolution or a matrix product depend on how many items there are. So an item's numbers are the
    same bytes in any list, which lets any number of workers share a set, and a second try fill in what is missing.
    They still depend on the device, the versions and, on a CPU, the number of threads.

    Raises
    ------
    ValueError
        Items that were not brought to one size.
    """
    done_NS = np.zeros((len(items), *shape), dtype=np.float32)
    sizes: set[tuple[int, ...]] = set()
    # Convolutions in TF32 would differ from the CPU's in the third digit, and a chosen algorithm from run to run.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        for n, item in enumerate(items):
            prepared = prepare(item)
            sizes.add(tuple(prepared.shape))
            if len(sizes) > 1:
                raise ValueError(
                    f"targets.tower: its preprocessing must bring all pictures to one size, got {sorted(sizes)}."
                )
            done_NS[n] = run(prepared[None].to(device()))[0].float().cpu().numpy()
    return done_NS


def probe(
    prepare: Callable[[Any], torch.Tensor], run: Callable[[torch.Tensor], torch.Tensor], item: Any
) -> tuple[int, ...]:
    """Return the shape of what a network makes of one item."""
    with torch.inference_mode():
        return tuple(run(prepare(item)[None].to(device())).shape[1:])


def blank() -> Image.Image:
    """Return a picture to ask for shapes with."""
    return Image.new("RGB", (32, 32))


def local_path(name: str, weights_uri: str) -> Path | None:
    """Return where a model lies on this machine, None if its name is that of a hub.

    A path that exists is taken as it is; with `weights_uri`, a name must lie below it.

    Raises
    ------
    ValueError
        Nothing of that name below `weights_uri`, or a path to nowhere.
    """
    path = Path(name.removeprefix("file://"))
    if path.exists():
        return path
    if weights_uri and not path.is_absolute():
        below = Path(weights_uri.removeprefix("file://")) / path
        if below.exists():
            return below
        raise ValueError(
            f"targets.tower: '{name}' must lie at {below}, with its config.json and model.safetensors; leave "
            "compute.weights_uri empty to fetch it."
        )
    if name.startswith(("/", "./", "../", "~", "file://")):
        raise ValueError(f"targets.tower: nothing lies at '{name}'; give a path on the machine that embeds, or an id.")
    return None


def portable(name: str, path: Path | None) -> str:
    """Return a model's name without the folders of this machine."""
    given = Path(name.removeprefix("file://"))
    return path.name if path is not None and path == given else name


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(net: nn.Module, without: Collection[str] = ()) -> str:
    """Return the sha256 of all weights by name but those `without`, the same wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        if name in without:
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def refuse_unloaded(what: str, info: dict[str, Any], spare: str = "") -> None:
    """Refuse a network some of whose weights were not in its files: they would be random numbers.

    Parameters
    ----------
    info
        What `from_pretrained` reports with ``output_loading_info=True``.
    spare
        Prefix of weights that are not going to be used.
    """
    missing = sorted(name for name in info["missing_keys"] if not (spare and name.startswith(spare)))
    if missing:
        raise ValueError(
            f"{what}: its files must hold all weights, {len(missing)} are missing, such as '{missing[0]}'."
        )
