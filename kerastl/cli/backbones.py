"""`kerastl backbones`: which networks there are, and where each can be unfrozen from."""

from __future__ import annotations

import click

from kerastl.backbones import IMAGE, BackboneSpec, backbone_names, get_backbone, is_own, is_preset
from kerastl.cli import completion
from kerastl.cli.options import debug_option, json_option
from kerastl.cli.terminal import print_json, quiet_tensorflow, show, table

OTHERS = (
    "Beside these: a .keras file with a functional model of your own, and kerashub: with the folder or the name of a KerasHub\n"
    "preset (ViT, DINOv2, SigLIP, MiT, BERT, …)."
)


@click.command()
@click.argument("name", required=False, shell_complete=completion.backbones)
@json_option
@debug_option
def backbones(name: str | None, as_json: bool) -> None:
    """List the pretrained networks; with NAME, a .keras file of your own or a KerasHub preset (kerashub:FOLDER), all about that one."""
    if name is None:
        specs = [get_backbone(each) for each in backbone_names(None)]
        print_json(specs) if as_json else show(f"{overview(specs)}\n\n{OTHERS}")
        return
    if is_own(name):
        quiet_tensorflow()
        from kerastl.model.own import own_spec

        spec = own_spec(name)
    else:
        spec = get_backbone(name)
    print_json(spec) if as_json else show(details(spec))


def overview(specs: list[BackboneSpec]) -> str:
    """A line for each network."""
    header = ("name", "pixels", "min", "parameters", "preprocessing", "unfreeze")
    rows = [
        (
            s.name,
            s.image_size or f"{s.modality}s",
            s.min_image_size or "-",
            s.parameters,
            s.preprocessing,
            len(s.unfreeze_points),
        )
        for s in specs
    ]
    return table(header, rows)


def details(spec: BackboneSpec) -> str:
    """All that is known of a network."""
    fixed = spec.max_image_size == spec.min_image_size
    facts = [
        ("network", spec.file or f"keras.applications.{spec.builder}"),
        (
            "image size",
            f"{spec.image_size} pixels, {'no other' if fixed else f'at least {spec.min_image_size}'}",
        )
        if spec.image_size
        else ("takes", f"{spec.modality}s"),
    ]
    if spec.modality != IMAGE:
        arguments = dict(spec.arguments)
        network = spec.file or f"{arguments.get('kind', 'table')} of Keras' own layers"
        facts = [("network", f"{network}, for {spec.modality}s")]
        facts += [("pieces", f"{arguments['positions']} at most")] if "positions" in arguments else []
    facts += [
        ("parameters", f"{spec.parameters:,}"),
        ("features", f"{spec.feature_channels:,} channels"),
        ("preprocessing", spec.preprocessing),
        (
            "pretrained",
            _origin(spec),
        ),
    ]
    lines = [f"{label:<14} {value}" for label, value in facts]
    points = [f"  {point}" for point in spec.unfreeze_points]
    return "\n".join([spec.name, *lines, "unfreeze points, from nothing unfrozen to everything:", *points])


def _origin(spec: BackboneSpec) -> str:
    if spec.in_folder and spec.published:
        return f"a folder: {spec.published[0].url}"
    where = "the preset" if spec.file and is_preset(spec.file) else "the file"
    return f"in {where}" if spec.file else "bundled with kerastl" if spec.bundled_weights else "imagenet"
