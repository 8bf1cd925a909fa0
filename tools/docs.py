"""Writes the pages of docs/ that the code already knows: the command line, the recipe keys, the backbones.

python tools/docs.py            write them
python tools/docs.py --check    fail if one is stale, and say which
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kerastl.backbones import backbone_names, get_backbone
from kerastl.cli import COMMANDS, cli
from kerastl.recipe import Recipe, recipe_keys, shipped_recipes

OWN_NETWORKS = """
## A network of your own

`--backbone my_network.keras` takes any functional Keras model of images with one input `[batch, side, side, 3]`, RGB 0..255: saved
by `model.save`, made of layers that Keras can load. Its unfreeze points are found on its graph, also within a model that was
used as a layer, as tutorials do it; what stands on the last activation, such as pooling and classifier, is left out. Where the
blocks above a point take the network's input as well, they read it beside the stored activations. Its weights are
those of the file, unless `--weights` names others (`none` draws them anew, but for what its `Normalization`
layers were adapted to: that is preprocessing). A network that was trained on rescaled pixels has to
begin with its `Rescaling` or `Normalization` layer; where it has neither, a warning says so. `kerastl backbones my_network.keras`
shows what was found. A model that was trained on it does not need the file any more.

A network of texts has two inputs, in this order: `pieces`, int32 `[batch, steps]` with the number of steps left open, and `length`, int32 `[batch]`;
the last activation `[batch, steps, channels]` is what is taken. See [text.md](text.md).

## A KerasHub preset

With `pip install "kerastl[kerashub]"`, `--backbone kerashub:FOLDER` takes a folder that KerasHub's `save_to_preset` wrote, of images (ViT,
DeiT, DINOv2, DINOv3, MiT, ResNet, EfficientNet, Swin, of SigLIP and CLIP the vision encoder, …) or of texts (BERT, DistilBERT, ELECTRA).
`kerashub:NAME` takes one of KerasHub's presets, or a `kaggle://` handle, from Kaggle's cache, into which kagglehub fetches it once; without a
network the message says what to fetch. `kerastl backbones kerashub:FOLDER` shows what was found.

    kerastl fit --data photos --backbone kerashub:presets/dinov2_small
    kerastl fit --data reviews.csv --backbone kerashub:presets/bert_tiny_en_uncased

- **Images.** Scale and offset of the preset's `image_converter.json` become the first layer; a preset without one gets pixels as they are, with
  a warning. Its size is `backbone.image_size`: transformers take that alone, convolutional networks any. How a picture becomes a square
  is `data.resize`, whose `crop` is what KerasHub does by default.
- **Texts** are cut by kerastl's own WordPiece with the preset's vocabulary and case, inside the exported model, by operations that every
  TensorFlow has. KerasHub's tokenizer is not used. Presets whose tokenizer is another (SentencePiece, byte pairs: RoBERTa, DeBERTa, GPT) are
  refused before anything is read: no exported model could load tensorflow-text. The words of [entities](entities.md) are those of this
  WordPiece, so presets of texts find these as well.
- **Outputs.** Transformers give a step for each patch or piece. `head.pooling` is their `avg`, `max`, `avgmax`, `gem`, or `first`, the class token of
  ViT and DINOv2, at any blocks; `auto` chooses among avg, avgmax and first. Networks without steps at every block (MiT, ResNet; SigLIP's
  vision encoder, which pools by itself) have no first.
- **Unfreeze points** are found on the graph. An encoder that is one layer there (ViT, DINOv2, Swin) is unfolded, so that each of its blocks ends in a
  point; DeiT's cannot be, and has one point below it.
- **Weights** are the preset's, one `model.weights.h5` whose SHA-256 the run records, or `none`: drawn anew, but for `Normalization` layers.
- **Afterwards.** A run needs the preset no more: its `model.keras` holds weights and sizes. To load that takes kerastl and KerasHub; the exported
  SavedModel, LiteRT and ONNX files need neither. `kerastl benchmark` is refused, as it asks the Keras model in a process without kerastl.
"""
DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "<!-- Made by tools/docs.py from the code; `make docs` writes it anew. -->\n"
WIDTH = 100


def command_line_page() -> str:
    """Every command's own help."""
    settings = {**cli.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    root = click.Context(cli, info_name="kerastl", **settings)
    parts = ["# The command line\n", MADE, _fenced(cli.get_help(root))]
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(
            command, info_name=name, parent=root, terminal_width=WIDTH, max_content_width=WIDTH
        )
        parts += [f"## kerastl {name}\n", _fenced(command.get_help(context))]
        for inner, below in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
            words = click.Context(
                below, info_name=inner, parent=context, terminal_width=WIDTH, max_content_width=WIDTH
            )
            parts += [f"### kerastl {name} {inner}\n", _fenced(below.get_help(words))]
    parts.append(
        "Exit codes: 0 done, 1 something went wrong, 2 something that you can mend, 130 stopped by Ctrl-C, "
        "143 by SIGTERM.\n"
    )
    return "\n".join(parts)


def recipes_page() -> str:
    """Every recipe key, with its default and the values that it takes."""
    parts = [
        "# Recipes\n",
        MADE,
        "A recipe is a TOML file; `kerastl fit recipe.toml` runs it. Every key may be left out. A key whose default "
        "is *auto* is chosen by a rule from the data and the backbone; `kerastl plan` shows what was chosen, and "
        "`recipe.toml` in the folder of a run holds all of it. `--set table.key=value` wins over the file, and a flag "
        "wins over `--set`.\n",
    ]
    tables = [""] + [f.name for f in dataclasses.fields(Recipe) if f.default is dataclasses.MISSING]
    keys = recipe_keys()
    for table in tables:
        parts.append(f"## [{table}]\n" if table else "## Top level\n")
        rows = [
            (f"`{dotted.rpartition('.')[2]}`", _default(item), _values(item.metadata, hint), item.metadata["help"])
            for dotted, item, hint in keys
            if dotted.rpartition(".")[0] == table
        ]  # fmt: skip
        parts.append(_table(("key", "default", "values", "meaning"), rows))
    parts.append("## Shipped recipes\n")
    for name, path in shipped_recipes().items():
        parts += [f"### {name}\n", "```toml", path.read_text(encoding="utf-8").strip(), "```\n"]
    return "\n".join(parts)


def backbones_page() -> str:
    """Every backbone, and every point that it can be thawed from."""
    specs = [get_backbone(name) for name in backbone_names(None)]
    rows = [
        (
            f"`{s.name}`",
            str(s.image_size or f"{s.modality}s"),
            str(s.min_image_size or "-"),
            f"{s.parameters:,}",
            s.preprocessing,
            "bundled"
            if s.bundled_weights
            else f"[folder]({s.published[0].url})"
            if s.in_folder
            else "imagenet",
            str(len(s.unfreeze_points)),
        )
        for s in specs
    ]
    header = ("name", "pixels", "at least", "parameters", "preprocessing", "pretrained", "unfreeze points")
    parts = [
        "# Backbones\n",
        MADE,
        "Pixels are the side of the square that a network was published for; any side from *at least* on works. "
        "Parameters are counted without the classifier. Preprocessing is part of the model: `caffe` is BGR minus "
        "the ImageNet mean, `tf` -1..1, `torch` the ImageNet mean and deviation, `identity` nothing, because the "
        "network rescales by itself. Of backbones for texts, whose weights are a Hugging Face folder ([text.md](text.md)), it is "
        "`uncased` or `cased`.\n",
        _table(header, rows),
        "## Unfreeze points\n",
        "From nothing unfrozen to everything; `--unfreeze-from POINT` trains all that lies above the point.\n",
    ]
    parts += [f"- `{s.name}`: {', '.join(f'`{point}`' for point in s.unfreeze_points)}" for s in specs]
    parts.append(OWN_NETWORKS)
    return "\n".join(parts) + "\n"


PAGES = {"cli.md": command_line_page, "recipes.md": recipes_page, "backbones.md": backbones_page}


def stale_pages(folder: Path) -> list[str]:
    """Names of the pages in `folder` that differ from what the code says."""
    return [
        name
        for name, make in PAGES.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != make()
    ]


def _fenced(text: str) -> str:
    return "```\n" + "\n".join(line.rstrip() for line in text.splitlines()) + "\n```\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _default(item: dataclasses.Field[Any]) -> str:
    default = item.default
    if default is None:
        return "*auto*" if item.metadata["auto"] else "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return (
        f'`"{default}"`' if isinstance(default, str) else f"`{list(default) if default == () else default}`"
    )


def _values(metadata: Mapping[str, Any], hint: Any) -> str:
    if metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    kind = _kind(hint)
    words = {bool: "true or false", str: "text", int: "whole number", float: "number"}.get(
        kind, "list of whole numbers"
    )
    signs = (("low", "≥"), ("above", ">"), ("high", "≤"), ("below", "<"))
    bounds = [f"{sign} {metadata[name]}" for name, sign in signs if metadata[name] is not None]
    return " ".join([words, ", ".join(bounds)]).strip()


def _kind(hint: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(kind for kind in kinds if kind is not types.NoneType)


def main() -> None:
    """Write the pages, or check them."""
    if sys.argv[1:] == ["--check"]:
        stale = stale_pages(DOCS)
        if stale:
            sys.exit(f"error: stale in docs/: {', '.join(stale)}. Run `make docs` and look at what changed.")
        return
    DOCS.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
