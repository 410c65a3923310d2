import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from tersor.tasks.batches import evaluation_loader, split, training_loader


def numbers(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (count, 2) that hold their own index, and targets that are it."""
    index = torch.arange(count)
    return torch.stack((index, -index), dim=1).float(), index


def order(loader) -> list[int]:
    batches = [targets.tolist() for inputs, targets in loader]
    return [i for batch in batches for i in batch]


def test_an_epoch_gives_every_sample_once_with_its_own_target():
    loader = training_loader(*numbers(10), batch_size=4)
    batches = list(loader)
    assert [len(targets) for _, targets in batches] == [4, 4, 2]
    for inputs, targets in batches:
        assert inputs.tolist() == [[i, -i] for i in targets.tolist()]
    assert sorted(order(loader)) == list(range(10))


def test_the_global_seed_decides_the_order_and_epochs_differ():
    loader = training_loader(*numbers(100), batch_size=8)
    torch.manual_seed(3)
    first, second = order(loader), order(loader)
    torch.manual_seed(3)
    assert (order(loader), order(loader)) == (first, second)
    assert first != second
    assert first != list(range(100))


def test_evaluation_goes_through_the_data_in_order():
    assert order(evaluation_loader(*numbers(2500))) == list(range(2500))


def test_accelerate_gives_the_same_batches_as_the_plain_loader():
    loader = training_loader(*numbers(30), batch_size=8)
    prepared = Accelerator(cpu=True).prepare(loader)
    torch.manual_seed(3)
    plain = order(loader)
    torch.manual_seed(3)
    assert order(prepared) == plain


def test_two_processes_share_an_epoch_between_them():
    seen = []
    for process in range(2):
        torch.manual_seed(3)
        loader = training_loader(*numbers(32), batch_size=4)
        shard = prepare_data_loader(loader, num_processes=2, process_index=process, rng_types=[])
        seen.append(order(shard))
    assert [len(part) for part in seen] == [16, 16]
    assert sorted(seen[0] + seen[1]) == list(range(32))


def test_a_batch_equals_its_samples():
    data = training_loader(*numbers(10), batch_size=4).dataset
    inputs, targets = data.__getitems__([7, 2, 2])
    assert [(x.tolist(), y.item()) for x, y in zip(inputs, targets, strict=True)] == [
        (data[i][0].tolist(), data[i][1].item()) for i in (7, 2, 2)
    ]


def test_worker_processes_can_be_given_the_loader():
    inputs, targets = numbers(6)
    plain = evaluation_loader(inputs, targets)
    loader = DataLoader(plain.dataset, 3, collate_fn=plain.collate_fn, num_workers=1)
    assert order(loader) == list(range(6))


def double(inputs: torch.Tensor) -> torch.Tensor:
    return 2 * inputs


@pytest.mark.parametrize("workers", [0, 1])
def test_inputs_are_prepared_a_batch_at_a_time_and_stay_stored_as_they_are(workers):
    inputs, targets = numbers(6)
    plain = evaluation_loader(inputs, targets, prepare=double)
    loader = DataLoader(plain.dataset, 4, collate_fn=plain.collate_fn, num_workers=workers)
    assert [(x[:, 0].tolist(), y.tolist()) for x, y in loader] == [
        ([0, 2, 4, 6], [0, 1, 2, 3]),
        ([8, 10], [4, 5]),
    ]
    assert plain.dataset[3][0].tolist() == [6, -6]
    assert torch.equal(plain.dataset.inputs, numbers(6)[0])


def test_training_inputs_are_prepared_anew_in_each_epoch():
    inputs, targets = torch.zeros(8, 1), torch.arange(8)
    loader = training_loader(inputs, targets, batch_size=8, prepare=torch.rand_like)
    torch.manual_seed(3)
    first, second, again = [x for _ in range(3) for x, _ in loader]
    torch.manual_seed(3)
    assert torch.equal(next(iter(loader))[0], first)
    assert not torch.equal(second, again)


@pytest.mark.parametrize(("count", "held_out"), [(10, (2, 3)), (5, (5,)), (7, ())])
def test_split_parts_are_disjoint_and_complete(count, held_out):
    parts = split(count, held_out, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [count - sum(held_out), *held_out]
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
