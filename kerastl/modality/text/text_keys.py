"""The recipe keys of texts, beside those that every kind of example has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerastl.declare import key

if TYPE_CHECKING:
    from kerastl.backbones import BackboneSpec

# Of BERT's 512: the time that a text takes grows with its pieces, that of attention with their square.
USUAL_PIECES = 256
TEXT_FLAGS = {"--max-pieces": "data.max_pieces"}
"""Flag -> recipe key, of keys that most users need."""
HEAD, HEAD_TAIL = "head", "head_tail"
CASES = {"uncased": True, "cased": False}


@dataclass(frozen=True)
class TextData:
    """Keys of `[data]`."""

    min_texts_per_class: int | None = key(
        None,
        "leave out classes with fewer texts to learn from than this, and say so; stop at them without it",
        low=2,
    )
    max_pieces: int | None = key(
        None,
        "pieces of a text that the network sees at most, [CLS] and [SEP] among them; 256 without it, or as many as the backbone "
        "has positions for",
        low=3,
        high=1_000_000,
        affects="features",
    )
    truncation: str = key(
        HEAD,
        "what is kept of a longer text: its beginning (head), or a quarter from there and the rest from its end (head_tail)",
        choices=(HEAD, HEAD_TAIL),
        affects="features",
    )
    vocabulary: str | None = key(
        None,
        "path of the backbone's vocab.txt, or of its tokenizer.json; the one in the folder of its weights without it",
        affects="features",
    )
    lowercase: bool | None = key(
        None,
        "lower letters and strip accents, as uncased backbones have it; as tokenizer_config.json beside the weights, "
        "tokenizer.json or the registry says without it",
        affects="features",
    )


def text_rule(spec: BackboneSpec) -> dict[str, Any]:
    """Values for the open keys of `[data]`: as many pieces as there are positions, 256 at most, and the backbone's case."""
    found: dict[str, Any] = {"max_pieces": min(USUAL_PIECES, positions_of(spec) or USUAL_PIECES)}
    if spec.preprocessing in CASES:
        found["lowercase"] = CASES[spec.preprocessing]
    return found


def text_checks(data: TextData, spec: BackboneSpec) -> list[str]:
    """Problems of the length that is set."""
    most = positions_of(spec)
    if data.max_pieces is not None and most is not None and data.max_pieces > most:
        return [
            f"data.max_pieces = {data.max_pieces}: '{spec.name}' has {most} positions. Expected {most} at most"
        ]
    return []


def positions_of(spec: BackboneSpec) -> int | None:
    """Pieces that a text may have; None where there is no limit."""
    positions = dict(spec.arguments).get("positions")
    return int(positions) if positions else None
