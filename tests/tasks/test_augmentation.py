import torch
from scipy.stats import chisquare

from tersor.tasks.augmentation import flip_and_shift


def by_hand(image: torch.Tensor, mirrored: bool, down: int, right: int) -> torch.Tensor:
    """An image (C, H, W) mirrored, then moved so many pixels, pixel by pixel."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y - down, x - right
            if 0 <= from_y < height and 0 <= from_x < width:
                source = width - 1 - from_x if mirrored else from_x
                out[:, y, x] = image[:, from_y, source]
    return out


def changes(count: int, up_to: int) -> list[int]:
    """Which of all possible changes each of so many copies of an image got, by comparison."""
    image = torch.arange(1.0, 2 * 5 * 6 + 1).reshape(2, 5, 6)
    moves = range(-up_to, up_to + 1)
    possible = [by_hand(image, m, d, r) for m in (False, True) for d in moves for r in moves]
    torch.manual_seed(0)
    got = flip_and_shift(image.expand(count, -1, -1, -1), up_to=up_to)
    assert got.shape == (count, 2, 5, 6)
    equal = torch.stack([(got == p).all(dim=(1, 2, 3)) for p in possible], dim=1)
    assert (equal.sum(dim=1) == 1).all()  # every copy got one of them
    return equal.sum(dim=0).tolist()


def test_every_mirrored_and_moved_image_is_equally_likely():
    counts = changes(count=5000, up_to=2)
    assert len(counts) == 2 * 5 * 5
    assert chisquare(counts).pvalue > 0.01


def test_without_shifts_it_is_a_fair_coin():
    plain, mirrored = changes(count=2000, up_to=0)
    assert chisquare([plain, mirrored]).pvalue > 0.01


def test_images_of_a_batch_are_changed_one_by_one():
    images = torch.arange(6 * 1 * 4 * 4).reshape(6, 1, 4, 4) + 1
    torch.manual_seed(1)
    changed = flip_and_shift(images, up_to=3)
    for before, after in zip(images, changed, strict=True):
        assert set(after.flatten().tolist()) <= {0, *before.flatten().tolist()}


def test_torchs_global_generator_decides():
    images = torch.randn(8, 3, 6, 6)
    torch.manual_seed(4)
    first, second = (flip_and_shift(images, up_to=2) for _ in range(2))
    torch.manual_seed(4)
    assert torch.equal(flip_and_shift(images, up_to=2), first)
    assert not torch.equal(first, second)
