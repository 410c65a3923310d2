import torch
from torch import nn

from tersor.tasks.networks import recurrent

X = torch.linspace(-2, 2, 2 * 2 * 3 * 4, dtype=torch.float64).reshape(2, 2, 3, 4)  # N, C, H, W


def inputs_by_hand(model: nn.Module) -> list[torch.Tensor]:
    """For each row the numbers of all its channels, mapped."""
    rows = [torch.cat((X[:, 0, row], X[:, 1, row]), dim=1) for row in range(3)]
    return [row @ model.embed.weight.T + model.embed.bias for row in rows]


def test_an_lstm_reads_the_rows_in_order_and_its_last_state_decides():
    torch.manual_seed(0)
    model = recurrent((2, 3, 4), 7, cell=nn.LSTM, units=5).double()
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in model.rnn.parameters())
    state, memory = torch.zeros(2, 5).double(), torch.zeros(2, 5).double()
    for row in inputs_by_hand(model):
        i, f, g, o = (row @ w_ih.T + b_ih + state @ w_hh.T + b_hh).chunk(4, dim=1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        state = o.sigmoid() * memory.tanh()
    torch.testing.assert_close(model(X), state @ model.fc.weight.T + model.fc.bias)


def test_a_gru_does_so_too():
    torch.manual_seed(0)
    model = recurrent((2, 3, 4), 7, cell=nn.GRU, units=5).double()
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in model.rnn.parameters())
    state = torch.zeros(2, 5).double()
    for row in inputs_by_hand(model):
        reset_in, update_in, new_in = (row @ w_ih.T + b_ih).chunk(3, dim=1)
        reset, update, new = (state @ w_hh.T + b_hh).chunk(3, dim=1)
        gate = (update_in + update).sigmoid()
        candidate = (new_in + (reset_in + reset).sigmoid() * new).tanh()
        state = (1 - gate) * candidate + gate * state
    torch.testing.assert_close(model(X), state @ model.fc.weight.T + model.fc.bias)
