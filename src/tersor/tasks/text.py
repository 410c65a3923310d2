"""Language modelling: the next word or character, from text files in a fixed vocabulary.

A text is cut into pieces of 32 tokens; each token is to be told from those before it in its piece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.core.errors import DataError
from tersor.tasks.batches import evaluation_loader, training_loader
from tersor.tasks.data_files import Folder, find_files, read_checked
from tersor.tasks.task import Task

TOKENS = 32
"""Tokens of a sample."""

UNKNOWN, END = "<unk>", "<eos>"

_EVALUATION_BATCH = 64  # a batch has so many times 32 rows of as many logits as words


@dataclass(frozen=True)
class TextSet:
    """Text files: what they are called, what they must hold, how they are cut into tokens.

    Args:
        name: of the task, and of its folder.
        title: as messages call it.
        sha256: file name to checksum: training, validation, test; or one file, whose last
            twentieths are validation and test.
        tokenize: the tokens of a text.
        vocabulary: tokens that are told apart: the most frequent of the training text, the others
            are `<unk>`.
    """

    name: str
    title: str
    sha256: dict[str, str]
    tokenize: Callable[[str], Iterable[str]]
    vocabulary: int


def words(text: str) -> list[str]:
    """The words of a text that is parted by blanks already, and `<eos>` at each line's end.

    >>> words("the <unk> sat \\n on it \\n")
    ['the', '<unk>', 'sat', '<eos>', 'on', 'it', '<eos>']
    """
    lines = text.removesuffix("\n").split("\n")
    return [word for line in lines for word in (*line.split(), END)]


WIKITEXT_2 = TextSet(
    "wikitext-2",
    "WikiText-2",
    {
        "train.txt": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    },
    words,
    10_000,
)

PTB = TextSet(
    "ptb",
    "Penn Treebank",
    {
        "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    },
    words,
    10_000,
)

TINY_SHAKESPEARE = TextSet(
    "tinyshakespeare",
    "Tiny Shakespeare",
    {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    list,  # characters
    65,
)


def wikitext_2(data_dir: Folder | None = None, batch_size: int | None = None) -> Task:
    """Articles of Wikipedia, the 10,000 most frequent words of its 33,278.

    Fewer words than the papers' have a smaller perplexity: compare within one vocabulary.
    """
    return load_text_set(WIKITEXT_2, data_dir, batch_size)


def ptb(data_dir: Folder | None = None, batch_size: int | None = None) -> Task:
    """The Wall Street Journal's words of the Penn Treebank, all 10,000 as Mikolov has them."""
    return load_text_set(PTB, data_dir, batch_size)


def tiny_shakespeare(data_dir: Folder | None = None, batch_size: int | None = None) -> Task:
    """Shakespeare's plays, the next of 65 characters; the last tenth is validation and test."""
    return load_text_set(TINY_SHAKESPEARE, data_dir, batch_size)


def load_text_set(
    source: TextSet, data_dir: Folder | None = None, batch_size: int | None = None
) -> Task:
    """The task of a set of texts; see `load_task` for the arguments and the errors.

    Inputs (N, 32) and targets (N, 32) are numbers of tokens, `<unk>` is 0 where there is one; a
    network gives logits (N, vocabulary, 32).
    """
    paths = find_files(source.title, f"text/{source.name}", source.sha256, data_dir)
    texts = []
    for name, path in paths.items():
        try:
            texts.append(read_checked(path, source.sha256[name]).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error.reason})") from error
    if len(texts) == 1:
        ends = [len(texts[0]) * share // 20 for share in (18, 19, 20)]
        texts = [texts[0][a:b] for a, b in zip([0, *ends], ends, strict=False)]
    tokens = [source.tokenize(text) for text in texts]
    numbers = vocabulary_of(tokens[0], source.vocabulary)
    train, validation, test = (samples(t, numbers) for t in tokens)
    return Task(
        source.name,
        training_loader(*train, batch_size=32 if batch_size is None else batch_size),
        evaluation_loader(*validation, batch_size=_EVALUATION_BATCH),
        evaluation_loader(*test, batch_size=_EVALUATION_BATCH),
        perplexity=True,
    )


def vocabulary_of(tokens: Iterable[str], size: int) -> dict[str, int]:
    """The most frequent tokens with their numbers, equals by the alphabet; `<unk>` is 0 if any is.

    >>> vocabulary_of("b a c a b d a".split(), 3)
    {'<unk>': 0, 'a': 1, 'b': 2}
    """
    counts = Counter(tokens)
    unknown = counts.pop(UNKNOWN, 0) > 0 or len(counts) > size
    known = sorted(counts, key=lambda token: (-counts[token], token))
    names = [*([UNKNOWN] if unknown else []), *known][:size]
    return {token: number for number, token in enumerate(names)}


def samples(tokens: Iterable[str], numbers: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Pieces of a text as inputs and targets (N, 32), each target the token after its input.

    Raises:
        DataError: a token is not in the vocabulary, and neither is `<unk>`.
    """
    unknown = numbers.get(UNKNOWN)
    try:
        found = [numbers[t] if unknown is None else numbers.get(t, unknown) for t in tokens]
    except KeyError as error:
        raise DataError(f"token {error} is not in the training text") from None
    stream = torch.tensor(found)
    count = (len(stream) - 1) // TOKENS
    inputs = stream[: count * TOKENS].view(count, TOKENS)
    return inputs, stream[1 : count * TOKENS + 1].view(count, TOKENS)
