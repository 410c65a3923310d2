import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.core.errors import ConfigError
from tersor.quantize.fake_quantize import FakeQuantize

SETTINGS = st.tuples(
    st.integers(2, 16), st.booleans(), st.floats(-100, 0, width=32), st.floats(0, 100, width=32)
)


@given(SETTINGS, st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=20))
def test_values_go_to_the_nearest_of_at_most_so_many(settings, numbers):
    bits, symmetric, low, high = settings
    quantizer = FakeQuantize(bits=bits, symmetric=symmetric, low=low, high=high)
    values = torch.tensor(numbers)
    rounded = quantizer(values)
    assert torch.equal(quantizer(rounded), rounded)
    order = values.argsort()
    assert (rounded[order].diff() >= 0).all()
    least, most = quantizer.range()
    inside = (values >= least) & (values <= most)
    bound = float(quantizer.scale) / 2 * (1 + 1e-5) + 1e-4 * float(quantizer.scale)
    assert ((rounded - values).abs()[inside] <= bound).all()
    assert ((rounded == least) | (rounded == most))[~inside].all()
    assert quantizer(torch.zeros(1)).view(torch.int32).item() == 0  # +0.0 itself
    codes = quantizer.integers(values)
    assert codes.dtype == torch.int32
    assert quantizer.levels.low <= codes.min()
    assert codes.max() <= quantizer.levels.high
    assert torch.equal(quantizer.decode(codes).view(torch.int32), rounded.view(torch.int32))


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -1.0, 3.0), (4, 0.0, 6.0), (8, -2.0, 0.0)])
def test_it_is_torchs_own_fake_quantizer(bits, low, high):
    quantizer = FakeQuantize(bits=bits, low=low, high=high)
    values = torch.linspace(-9, 9, 4001).requires_grad_()
    ours = quantizer(values)
    theirs = torch.fake_quantize_per_tensor_affine(
        values, quantizer.scale, quantizer.zero_point, 0, 2**bits - 1
    )
    # They multiply by 1 / scale: what lies half-way may go to the other neighbour.
    other = ours != theirs
    assert other.float().mean() < 0.002
    assert ((ours - theirs).abs() <= 1.01 * quantizer.scale).all()
    (mine,) = torch.autograd.grad(ours.sum(), values)
    (yours,) = torch.autograd.grad(theirs.sum(), values)
    # Theirs passes where the rounded value is inside, ours where the value itself is.
    near = [(values - end).abs() <= quantizer.scale / 2 for end in quantizer.range()]
    assert torch.equal(mine[~(near[0] | near[1])], yours[~(near[0] | near[1])])
    clip = values.clamp(*(float(end) for end in quantizer.range()))
    (truth,) = torch.autograd.grad(clip.sum(), values)
    assert torch.equal(mine, truth)


def test_the_state_is_a_scale_and_a_zero_point():
    quantizer = FakeQuantize(bits=8, low=-1.0, high=1.55)
    assert set(quantizer.state_dict()) == {"scale", "zero_point"}
    assert quantizer.scale.item() == pytest.approx(0.01)
    assert quantizer.zero_point.item() == 100
    assert not list(quantizer.parameters())


def test_what_makes_no_grid_is_refused():
    with pytest.raises(ConfigError, match="bits: 17; expected a whole number from 1 to 16"):
        FakeQuantize(bits=17)
    with pytest.raises(ConfigError, match="bits: 1; expected a whole number from 2 to 16"):
        FakeQuantize(bits=1, symmetric=True)
    with pytest.raises(ConfigError, match=r"range: \[2\.0, 1\.0\]"):
        FakeQuantize(low=2.0, high=1.0)
    with pytest.raises(ConfigError, match="range"):
        FakeQuantize(high=float("inf"))
