"""Any named layer of a frozen network, read by forward hooks.

Published systems differ most in which layer they predict (SAMGA: layers 20, 24, 28, 32 and 36 of a vision transformer).
Shape letters: N picture, L layer, S token, D width, C channel, H row, W column.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from eegdecode.targets.spec import Layers


class Tap:
    """Runs a network and returns what its named layers gave.

    Of one layer its readout (N, ...), of several the same stacked, (N, L, ...). Readouts: ``whole`` is the output as it
    comes; ``token`` the class token of (N, S, D); ``mean`` the mean over patch tokens, or over places of a map.

    Parameters
    ----------
    run
        How the network is called.
    patch_px
        Side of a transformer's patches; tells patch tokens from those before them. None: it has none.

    Raises
    ------
    ValueError
        A layer that is not there, with near names.
    """

    def __init__(
        self, net: nn.Module, layers: Layers, run: Callable[[torch.Tensor], Any], patch_px: tuple[int, int] | None
    ) -> None:
        modules = dict(net.named_modules())
        self._layers, self._run, self._patch_px = layers, run, patch_px
        self._channels_last = any(getattr(module, "output_fmt", None) == "NHWC" for module in modules.values())
        self._modules = []
        for name in layers.names:
            if name not in modules:
                near = get_close_matches(name, modules, n=5, cutoff=0.3)
                raise ValueError(f"targets.tower: no layer '{name}' in this network; near names: {', '.join(near)}.")
            self._modules.append(modules[name])

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the readouts of a prepared batch."""
        outputs: dict[int, list[torch.Tensor]] = {k: [] for k in range(len(self._modules))}

        def keep(k: int) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                outputs[k].append(_tensor(output))

            return hook

        handles = [module.register_forward_hook(keep(k)) for k, module in enumerate(self._modules)]
        try:
            self._run(inputs)
        finally:
            for handle in handles:
                handle.remove()
        read = [self._read(name, outputs[k], inputs) for k, name in enumerate(self._layers.names)]
        if len(read) == 1:
            return read[0]
        if len({tuple(layer.shape) for layer in read}) > 1:
            shapes = ", ".join(f"{n} {tuple(r.shape[1:])}" for n, r in zip(self._layers.names, read, strict=True))
            raise ValueError(f"targets.tower: layers taken together must be of one shape, got {shapes}.")
        return torch.stack(read, dim=1)

    def _read(self, name: str, outputs: list[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        readout = self._layers.readout
        if len(outputs) != 1:
            raise ValueError(f"targets.tower: layer '{name}' must run once for a picture, it ran {len(outputs)} times.")
        output = outputs[0]
        if output.ndim < 2 or len(output) != len(inputs):
            raise ValueError(
                f"targets.tower: layer '{name}' must give one row per picture, got {tuple(output.shape)} for "
                f"{len(inputs)}."
            )
        if readout == "whole":
            return output
        if readout == "mean" and output.ndim == 4:
            return output.mean(dim=(1, 2) if self._channels_last else (2, 3))
        before = self._tokens_before_patches(output, inputs)
        if before is None:
            raise ValueError(
                f"targets.tower: '{readout}' needs tokens of picture patches, layer '{name}' gives "
                f"{tuple(output.shape[1:])}; take it whole with '@{name}'."
            )
        if readout == "mean":
            return output[:, before:].mean(dim=1)
        if not before:
            raise ValueError(f"targets.tower: layer '{name}' has no class token; take '@mean({name})'.")
        return output[:, 0]

    def _tokens_before_patches(self, output: torch.Tensor, inputs: torch.Tensor) -> int | None:
        """Return how many class and register tokens stand before the patches, None if these are not patch tokens."""
        if self._patch_px is None or output.ndim != 3:
            return None
        n_patches = (inputs.shape[-2] // self._patch_px[0]) * (inputs.shape[-1] // self._patch_px[1])
        before = int(output.shape[1]) - n_patches
        return before if before >= 0 else None


def patch_px(*owners: Any) -> tuple[int, int] | None:
    """Return the patch side that the first of these (modules, configurations) declares."""
    for owner in owners:
        side = getattr(owner, "patch_size", None)
        if side is not None:
            return (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    return None


def _tensor(output: Any) -> torch.Tensor:
    """Return a module's main output: layers of transformers may give a tuple or a record with it first."""
    found = output if isinstance(output, torch.Tensor) else output[0]
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"targets.tower: a layer must give a tensor, got {type(found).__name__}.")
    return found
