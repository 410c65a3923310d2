import itertools

import torch
from torch import nn

from tersor.core import prunable
from tersor.prune.criteria.inputs import watch_inputs
from tersor.prune.scoring import ScoringData


def test_a_layer_that_is_called_twice_and_a_tied_one_give_the_rows_of_all_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, inputs):
            return self.b(self.a(self.a(inputs)))

    model, seen = Twice(), []
    data = ScoringData([(torch.ones(2, 3), torch.zeros(1)), (torch.ones(4, 3), torch.zeros(1))])
    refused = watch_inputs(
        model, prunable(model), data, "x", lambda w, rows: seen.append(rows.shape)
    )
    assert refused == {}
    assert [shape[1] for shape in seen] == [2, 2, 2, 4, 4, 4]


def test_padded_tokens_go_through_the_layers_of_an_encoder_as_others_do():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, inputs):
            padding = torch.zeros(inputs.shape[:2], dtype=torch.bool)
            padding[0, 3:] = True
            return self.encoder(inputs, src_key_padding_mask=padding)

    model, seen = Padded().requires_grad_(False), []
    data = ScoringData([(torch.ones(2, 5, 4), torch.zeros(2))])
    watch_inputs(model, prunable(model), data, "x", lambda w, rows: seen.append(rows.shape))
    assert seen == [(1, 10, 4), (1, 10, 8)]


def test_why_a_layer_has_no_inputs_is_said_and_nothing_is_left_behind():
    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(3, 4, batch_first=True),
            "attention": nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            "bilinear": nn.Bilinear(2, 2, 2),
            "embedding": nn.Embedding(3, 2),
        }
    )
    model.forward = lambda inputs: model["attention"](model["lstm"](inputs)[0])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names = []
    data = ScoringData([(torch.ones(2, 5, 3), torch.zeros(1))])
    refused = watch_inputs(model, prunable(model), data, "x", lambda w, rows: names.append(w.name))
    assert names == ["attention.linear1.weight", "attention.linear2.weight"]
    assert "this is recurrent" in refused["lstm.weight_ih_l0"]
    assert "this is attention" in refused["attention.self_attn.in_proj_weight"]
    assert "not called as a module" in refused["attention.self_attn.out_proj.weight"]
    assert "this is embedding" in refused["embedding.weight"]
    assert "no weighted sums" in refused["bilinear.weight"]
    hooks = (m._forward_hooks for m in model.modules())
    assert not any(itertools.chain(*hooks))
    assert torch.backends.mha.get_fastpath_enabled()
