import json

import torch

from tersor.core.masks import MaskSet
from tersor.prune.lottery import Record, early_stop_step


def test_the_early_stop_step_is_that_of_the_first_least_loss():
    assert early_stop_step([(100, 2.0), (200, 1.0), (300, 3.0), (400, 1.0)]) == 200
    assert early_stop_step([(100, float("nan")), (200, 5.0), (300, float("nan"))]) == 200
    assert early_stop_step([(100, float("nan"))]) == 100


def test_a_record_comes_back_from_json_bit_for_bit():
    masks = MaskSet({"a": torch.tensor([True, False, True]), "b": torch.tensor([True])})
    log = [(100, 0.1 + 0.2), (200, 1 / 3)]
    record = Record.made("random-mask", 3, 1, masks, log, {"test %": 98.1}, {"test %": 97.9})
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert record.density == 0.75
    assert record.early_stop_step == 100
    assert record.kept == {"a": 2, "b": 1}
