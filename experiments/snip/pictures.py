"""What SNIP keeps of LeNet-300-100's first layer: pixels, by the batch that was scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from running import kept, table
from training import draw, prune, task_of

DENSITY = 0.02
SIZES = (1, 10, 100, 1000)
CLASSES = (0, 1, 7)


def main(folder: Path, seeds: int, quick: bool, data_dir: str | None) -> str:
    settings = {"part": "pictures", "density": DENSITY, "seeds": seeds, "quick": quick}
    found = kept(folder, settings, lambda: run(seeds, quick, data_dir))
    if not quick:
        _draw(found["maps"], folder / "masks.png")
    return table(found["rows"])


def run(seeds: int, quick: bool, data_dir: str | None) -> dict[str, Any]:
    """The pixels' counts for seed 0, and for all seeds how close they are to the mean image."""
    task = task_of("mnist", 100, data_dir)
    data = task.train.dataset  # type: ignore[attr-defined]
    images, labels = data.inputs, data.targets
    if quick:
        images, labels = images[:10_000], labels[:10_000]
    ink = (images - images.min()).mean(0).flatten()  # the mean image, 0 where never any ink is
    maps: dict[str, list[list[int]]] = {}
    rows = []
    for name, choose in _batches(images, labels).items():
        likeness, inked = [], []
        for seed in range(seeds):
            net = draw("lenet-300-100", task, seed)
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            masks = prune(net, DENSITY, choose(order))
            pixels = masks["fc1.weight"].sum(0)  # (784,)
            if seed == 0:
                maps[name] = pixels.view(28, 28).tolist()
            both = torch.stack([pixels.float(), ink])
            likeness.append(torch.corrcoef(both)[0, 1].item())
            share = pixels[ink > ink.mean()].sum() / pixels.sum()
            inked.append(share.item())
        rows.append(
            {
                "scored on": name,
                "correlation with the mean image": f"{sum(likeness) / seeds:.2f}",
                "kept at pixels with more ink than the mean, %": f"{100 * sum(inked) / seeds:.0f}",
            }
        )
    return {"maps": maps, "rows": rows}


def _batches(images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Name to a function from an order of the images to batches."""

    def first(count: int) -> Any:
        return lambda order: [(images[order[:count]], labels[order[:count]])]

    def one_class(digit: int) -> Any:
        def choose(order: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            chosen = order[labels[order] == digit][:100]
            return [(images[chosen], labels[chosen])]

        return choose

    def everything(order: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(images.split(5000), labels.split(5000), strict=True))

    sizes = {f"{n} image{'s' if n > 1 else ''}": first(n) for n in SIZES}
    digits = {f"100 images of {digit}": one_class(digit) for digit in CLASSES}
    return sizes | {"all images": everything} | digits


def _draw(maps: dict[str, list[list[int]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(7.2, 3.9))
    for axis, (name, pixels) in zip(axes.flat, maps.items(), strict=True):
        axis.imshow(pixels, cmap="gray_r", interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(f"weights of each pixel that SNIP keeps at {DENSITY:.0%} density", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
