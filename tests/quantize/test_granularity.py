import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize import GRANULARITIES, Affine
from tersor.quantize.granularity import Blocks

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(shapes, st.sampled_from(GRANULARITIES), st.integers(1, 40))
def test_what_is_split_joins_again_and_each_entry_meets_the_number_of_its_block(shape, kind, group):
    blocks = Blocks.of(shape, kind, group)
    x = torch.arange(1.0, torch.Size(shape).numel() + 1).view(shape)
    parts = blocks.split(x)
    assert parts.shape == (blocks.rows, blocks.per_row, blocks.size)
    assert torch.equal(blocks.join(parts), x)
    assert int((parts == 0).sum()) == blocks.rows * blocks.padding
    numbers = torch.arange(float(blocks.count)).view(blocks.rows, blocks.per_row)
    spread = blocks.spread(numbers).expand(shape)
    flat = spread.reshape(shape[0], -1)
    for row in range(flat.shape[0]):
        for column in range(flat.shape[1]):
            expected = {
                "tensor": 0,
                "channel": row,
                "group": row * blocks.per_row + column // min(group, flat.shape[1]),
            }[kind]
            assert flat[row, column] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "chanel"}, "granularity 'chanel': did you mean 'channel'"),
        ({"granularity": "group", "group": 0}, "group: 0; expected 1 or more"),
        ({"granularity": "group", "group": 2.5}, "group: 2.5; expected 1 or more"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Affine(**options)
