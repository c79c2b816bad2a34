"""BatchNorm over the batch of all ranks, so that the number of workers does not change the loss.

Shape letters: B batch, F feature; further axes are counted as rows.
"""

import torch
from torch import nn
from torch.nn import functional

from eegdecode import collectives


class BatchNorm(nn.Module):
    """BatchNorm of axis 1 with the moments of all ranks; its state is named as torch's, without the counter.

    Parameters
    ----------
    eps, momentum
        As in torch.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, n_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (B, F, ...) normalised per feature."""
        with torch.autocast(x.device.type, enabled=False):  # moments in full precision
            x = x.to(self.weight.dtype)
            if not self.training or collectives.world_size() == 1:
                return functional.batch_norm(
                    x,
                    self.running_mean,
                    self.running_var,
                    self.weight,
                    self.bias,
                    self.training,
                    self.momentum,
                    self.eps,
                )
            rows, along = [axis for axis in range(x.ndim) if axis != 1], (1, -1) + (1,) * (x.ndim - 2)
            n = x.numel() // x.shape[1] * collectives.world_size()
            mean_F = collectives.total(x.sum(dim=rows)) / n
            centred = x - mean_F.view(along)
            var_F = collectives.total(centred.square().sum(dim=rows)) / n
            with torch.no_grad():
                self.running_mean.lerp_(mean_F, self.momentum)
                self.running_var.lerp_(var_F * (n / max(n - 1, 1)), self.momentum)
            scale_F = self.weight * torch.rsqrt(var_F + self.eps)
            return centred * scale_F.view(along) + self.bias.view(along)


def bias_as_buffer(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution whose bias is no parameter, for one that stands in front of a BatchNorm.

    The bias cancels there, so its gradient is zero and an optimiser would walk it at random. It stays a buffer for the
    sake of published weights.
    """
    del conv.bias
    conv.register_buffer("bias", torch.zeros(conv.out_channels))
    return conv


def over_all_ranks(module: nn.Module) -> nn.Module:
    """Return the module with every BatchNorm of torch in it replaced, running statistics and weights kept.

    Raises
    ------
    ValueError
        A BatchNorm without weights, without running statistics or with a cumulative average, which ours has not.
    """
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        for name, child in module.named_children():
            setattr(module, name, over_all_ranks(child))
        return module
    if not (module.affine and module.track_running_stats and module.momentum is not None):
        raise ValueError(f"A BatchNorm must have weights, running statistics and a momentum, got {module}.")
    ours = BatchNorm(module.num_features, module.eps, module.momentum)
    state = module.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    return ours
