import pytest
import torch
from torch import nn

from tersor.core.errors import ConfigError
from tersor.train import Training
from tersor.train.settings import make_optimizer, make_schedule


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, r"Training.epochs: 0; expected a whole number"),
        ({"epochs": 2.5}, r"Training.epochs: 2.5; expected a whole number"),
        ({"learning_rate": 0}, r"Training.learning_rate: 0; expected a number above 0"),
        ({"learning_rate": float("inf")}, r"Training.learning_rate: inf; expected"),
        ({"optimizer": "adm"}, r"Training.optimizer: 'adm'; expected one of: adam, adamw, sgd"),
        ({"momentum": 1.0}, r"Training.momentum: 1.0; expected 0 <= momentum < 1"),
        ({"weight_decay": -1}, r"Training.weight_decay: -1; expected 0 or more"),
        ({"patience": 0}, r"Training.patience: 0; expected epochs"),
        ({"keep": "first"}, r"Training.keep: 'first'; expected one of: best.*, last"),
        ({"precision": "int8"}, r"Training.precision: 'int8'; expected one of: no, fp16, bf16"),
        ({"checkpoint_steps": 0}, r"Training.checkpoint_steps: 0; expected optimizer steps"),
        ({"epoch": 3}, r"Training: unknown key 'epoch'; did you mean 'epochs'\?"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_right(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Training(**({"epochs": 1} | wrong))


def test_the_number_of_epochs_has_no_default():
    with pytest.raises(ConfigError, match="'epochs' is missing"):
        Training()


def test_optimizers_are_torchs_with_these_numbers():
    model = nn.Linear(2, 2)
    settings = {"epochs": 1, "learning_rate": 0.02, "weight_decay": 0.3, "momentum": 0.8}
    for name, kind in [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
    ]:
        optimizer = make_optimizer(model, Training(optimizer=name, **settings))
        assert type(optimizer) is kind
        group = optimizer.param_groups[0]
        assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
        assert group.get("momentum", 0.8) == 0.8
        assert group.get("betas", (0.9, 0.999)) == (0.9, 0.999)
        assert len(group["params"]) == 2


@pytest.mark.parametrize(
    ("name", "rates"), [("cosine", [1.0, 0.75, 0.25, 0.0]), ("constant", [1.0] * 4)]
)
def test_the_learning_rate_follows_its_schedule_to_the_end(name, rates):
    training = Training(epochs=1, learning_rate=1.0, learning_rate_schedule=name)
    optimizer = make_optimizer(nn.Linear(1, 1), training)
    schedule = make_schedule(optimizer, training, 3)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates, abs=1e-12)
