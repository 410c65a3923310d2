"""What a step of sparse training costs in theory: multiply-accumulates of one example."""

from __future__ import annotations

from tersor.core.errors import ConfigError, did_you_mean

METHODS = ("dense", "static", "set", "rigl", "snfs", "top_kast", "sr_ste")


def training_cost(
    method: str,
    *,
    dense: float,
    sparse: float,
    every: int = 100,
    backward: float | None = None,
) -> float:
    """Cost of one training step and example, of a method whose forward pass costs `sparse`.

    A dense backward pass costs two forward passes, one for the inputs and one for the weights:

        dense       3 f_D
        static, set 3 f_S                                   (also dsr and deep_r)
        rigl        (3 f_S every + 2 f_S + f_D) / (every + 1)
        snfs        2 f_S + f_D                             the momentum of all weights
        top_kast    2 f_S + f_B                             f_B the weights that are trained
        sr_ste      2 f_S + f_D                             the gradient of all weights

    Args:
        method: one of `METHODS`.
        dense, sparse: of the forward pass of one example, dense and with the masks; in
            multiply-accumulates or any other unit, which is that of the result.
        every: optimizer steps between two updates (rigl).
        backward: forward cost with the masks of the trained weights (top_kast).

    Raises:
        ConfigError: the method is unknown, or `backward` is missing.

    Source: Evci et al. 2020, arXiv 1911.11134, appendix H; top_kast and sr_ste by the same count.
    What it takes on hardware that cannot skip zeros is 3 f_D for all of them.

    >>> training_cost("rigl", dense=100.0, sparse=10.0, every=99)
    30.9
    """
    if method in ("static", "set"):
        return 3 * sparse
    if method == "dense":
        return 3 * dense
    if method == "rigl":
        return (3 * sparse * every + 2 * sparse + dense) / (every + 1)
    if method in ("snfs", "sr_ste"):
        return 2 * sparse + dense
    if method == "top_kast":
        if backward is None:
            raise ConfigError("top_kast: backward is missing; expected the cost with its B")
        return 2 * sparse + backward
    raise ConfigError(f"method {method!r}: {did_you_mean(method, METHODS)}")
