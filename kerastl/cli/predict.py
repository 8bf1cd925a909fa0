"""`kerastl predict`: what a model says about images or texts."""

from __future__ import annotations

import sys

import click

from kerastl.cli import completion
from kerastl.cli.options import Number, csv_option, debug_option, json_option, progress_option
from kerastl.cli.terminal import print_csv, print_json, quiet_tensorflow, table
from kerastl.client.access import read_access
from kerastl.client.address import is_address, parse_address
from kerastl.client.asking import Patience
from kerastl.prediction import Prediction, Predictions
from kerastl.progress import Progress

# Eleven days: the clocks of sockets end at three hundred years.
LONGEST_TIMEOUT_SECONDS = 1_000_000


@click.command()
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=completion.runs)
@click.argument("examples", nargs=-1, metavar="EXAMPLE...", shell_complete=completion.words((), "file"))
@click.option(
    "--url",
    metavar="URL",
    help="Ask a model that TensorFlow Serving serves, in place of MODEL: http://HOST:8501/v1/models/NAME, or "
    "grpc://HOST:8500/NAME (https and grpcs with TLS); /versions/N or /labels/LABEL after NAME asks for that version.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many labels to print for each example; a served model names five at most.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Number(min=0, min_open=True, max=LONGEST_TIMEOUT_SECONDS),
    default=Patience.timeout_seconds,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a server's answer about one batch of examples.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Sent to the server with every request (gRPC: metadata); may be given several times. A token in the environment "
    "variable KERASTL_TOKEN is sent as 'Authorization: Bearer TOKEN'.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    help="Certificates (PEM) of whom to trust for https and grpcs, in place of the usual authorities.",
)
@json_option
@csv_option
@progress_option
@debug_option
def predict(
    model: str | None,
    examples: tuple[str, ...],
    url: str | None,
    top: int,
    timeout_seconds: float,
    headers: tuple[str, ...],
    ca_file: str | None,
    as_json: bool,
    as_csv: bool,
    progress: Progress,
) -> None:
    """Classify images or texts with a trained model.

    MODEL is the folder of a run or of an exported model. An EXAMPLE is a file, a folder or a pattern such as 'photos/**/*.jpg'; for a
    model of texts also a text in quotes, or - for the standard input, a text a line. Examples that cannot be read are named and left
    out; the command then ends with 1.
    """
    if url is not None:
        # every word is an example then; click has taken the first for the model
        model, examples = url, examples if model is None else (model, *examples)
        parse_address(url)
    if model is None or not examples:
        raise click.UsageError(f"Missing argument '{'MODEL' if model is None else 'EXAMPLE...'}'.")
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    if not is_address(model) or parse_address(model).is_grpc:
        quiet_tensorflow()
    from kerastl.jobs.predict import predict

    if (headers or ca_file) and not is_address(model):
        raise click.UsageError("--header and --ca-file are for a server: pass its address with --url.")
    access = read_access(headers, ca_file) if is_address(model) else None
    patience = Patience(timeout_seconds=timeout_seconds)
    predictions = predict(model, examples, top=top, patience=patience, access=access, progress=progress)
    if as_json:
        print_json(predictions)
    elif as_csv:
        print_csv(*_csv(predictions))
    else:
        click.echo(_table(predictions))
    for each in predictions:
        if each.error:
            progress.warn(f"{each.path}: {each.error}")
    if any(each.error for each in predictions):
        sys.exit(1)


def _table(predictions: Predictions) -> str:
    readable = [each for each in predictions if not each.error]
    if any(each.entities is not None for each in readable):
        return _entities_table(predictions.noun, readable)
    rows = [
        (
            each.path if rank == 0 else "",
            label,
            f"{probability:.3f}",
            "" if each.accepted or rank else "no",
            "" if rank else ", ".join(each.labels or ()) or "none",
        )
        for each in readable
        for rank, (label, probability) in enumerate(each.top)
    ]
    header = (predictions.noun, "label", "probability", "accepted", "all labels")
    # where the model never abstains, or gives one label, a column that says so would only be read in vain
    columns = [0, 1, 2]
    columns += [3] * any(not each.accepted for each in readable)
    columns += [4] * any(each.labels is not None for each in readable)
    return table([header[i] for i in columns], [[row[i] for i in columns] for row in rows])


def _entities_table(noun: str, readable: list[Prediction]) -> str:
    """A line for each entity, and one for a text without any."""
    rows: list[tuple[object, ...]] = []
    for each in readable:
        found: list[tuple[object, ...]] = [
            (entity.text, entity.type, entity.start, entity.end, f"{entity.score:.3f}")
            for entity in each.entities or ()
        ]
        found = found or [("", "none", "", "", "")]
        rows += [(each.path if rank == 0 else "", *row) for rank, row in enumerate(found)]
    return table([noun, "entity", "type", "start", "end", "score"], rows)


def _entities_csv(predictions: Predictions) -> tuple[list[str], list[list[object]]]:
    rows: list[list[object]] = []
    for each in predictions:
        if each.error or not each.entities:
            rows.append([each.path, "", "", "", "", "", each.error])
        rows += [[each.path, e.text, e.type, e.start, e.end, e.score, ""] for e in each.entities or ()]
    return [predictions.noun, "entity", "type", "start", "end", "score", "error"], rows


def _csv(predictions: Predictions) -> tuple[list[str], list[list[object]]]:
    """Header and rows; the last column stands where the model gives several labels an example."""
    if any(each.entities is not None for each in predictions):
        return _entities_csv(predictions)
    header = [predictions.noun, "rank", "label", "probability", "accepted", "error", "labels"]
    rows: list[list[object]] = []
    for each in predictions:
        accepted = "yes" if each.accepted else "no"
        if each.error:
            rows.append([each.path, "", "", "", accepted, each.error, ""])
        for rank, (label, probability) in enumerate(each.top, start=1):
            rows.append([each.path, rank, label, probability, accepted, "", "|".join(each.labels or ())])
    columns = len(header) if any(each.labels is not None for each in predictions) else len(header) - 1
    return header[:columns], [row[:columns] for row in rows]
