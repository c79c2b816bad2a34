"""Without a process group it is the world of one process; several ranks are tested in tests/numerics."""

import torch

from eegdecode import collectives


def test_one_process_is_its_own_world() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    assert collectives.gather(x) is x
    assert collectives.total(x) is x
    assert collectives.mean({"a": 1.5}) == {"a": 1.5}
    assert collectives.all_true(True)
    assert not collectives.all_true(False)
    collectives.barrier()
    x.grad = torch.ones(3, 2)
    collectives.average_gradients([torch.nn.Parameter(x)])
    assert torch.equal(collectives.gather_ids(torch.tensor([4, 5])), torch.tensor([4, 5]))


def test_a_group_of_one_needs_no_launcher_and_can_be_left() -> None:
    for _ in range(2):
        collectives.start_group(torch.device("cpu"))
        collectives.start_group(torch.device("cpu"))
        assert (collectives.rank(), collectives.world_size()) == (0, 1)
        collectives.leave_group()
