import pytest

from tersor.core.errors import ConfigError
from tersor.prune.dynamic.cost import METHODS, training_cost


def test_rigl_is_every_steps_of_static_and_one_update_that_is_dense_in_one_part():
    # One round: `every` sparse steps of 3 f_S, and one update with a sparse forward pass, a
    # sparse gradient of the inputs and a dense gradient of the weights.
    whole = 100 * training_cost("static", dense=50.0, sparse=7.0) + 2 * 7.0 + 50.0
    assert training_cost("rigl", dense=50.0, sparse=7.0, every=100) == pytest.approx(whole / 101)


def test_the_published_share_of_rigl():
    # Evci et al. 2020, table 2: ResNet-50 at 80 % sparse, uniform: 0.23x of the training FLOPs
    # of the dense network, where its forward pass costs 0.23x too; at 90 %, 0.1x and 0.1x.
    for share in (0.23, 0.10):
        ratio = training_cost("rigl", dense=1.0, sparse=share, every=100) / 3
        assert ratio == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("method", METHODS)
def test_at_density_one_every_method_costs_what_dense_training_costs(method):
    assert training_cost(method, dense=5.0, sparse=5.0, backward=5.0) == 15.0


def test_the_order_of_the_methods():
    costs = [
        training_cost(method, dense=100.0, sparse=10.0, backward=20.0)
        for method in ("static", "rigl", "top_kast", "snfs", "dense")
    ]
    assert costs == sorted(costs)
    assert costs[0] == 30.0


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(ConfigError, match="method 'rigll': did you mean 'rigl'"):
        training_cost("rigll", dense=1.0, sparse=1.0)
    with pytest.raises(ConfigError, match="top_kast: backward is missing"):
        training_cost("top_kast", dense=1.0, sparse=1.0)
