"""Recurrent networks that read an image row by row."""

from __future__ import annotations

from torch import Tensor, nn

from tersor.tasks.networks.images import image_sides, rows


def recurrent(
    input_shape: tuple[int, ...], classes: int, *, cell: type[nn.LSTM] | type[nn.GRU], units: int
) -> nn.Module:
    """A linear map of each row to `units`, an LSTM or a GRU of as many, and logits at the end.

    `lstm-s` and `gru-s` of the catalog have 128 units, `lstm-b` and `gru-b` 256. For MNIST, 28
    steps of 28 pixels:

    | network | parameters | published |
    | lstm-s | 137,098 | 137k |
    | lstm-b | 536,330 | 535k |
    | gru-s | 104,074 | 104k |
    | gru-b | 404,746 | 404k |

    Shapes: (N, C, H, W) -> (N, classes); a step is a row of all channels, C * W numbers.

    Source: Lee, Ajanthan and Torr 2019, arXiv 1810.02340, table 2. The map before the cell is
    concluded from their counts, which no cell on bare rows has; torch's second bias vector of each
    cell makes the difference of up to 1,024 parameters.

    Raises:
        ConfigError: the input is no image.
    """
    channels, _, width = image_sides(cell.__name__.lower(), input_shape)
    return RowReader(cell, channels * width, units, classes)


class RowReader(nn.Module):
    """The network of `recurrent`, for rows of `features` numbers."""

    def __init__(
        self, cell: type[nn.LSTM] | type[nn.GRU], features: int, units: int, classes: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(features, units)
        self.rnn = cell(units, units, batch_first=True)
        self.fc = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(rows(x)))  # (N, H, units)
        logits: Tensor = self.fc(states[:, -1])
        return logits
