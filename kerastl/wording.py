"""How figures and names are written: on the terminal, in reports and on model cards."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A length of time as people say it: `48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(header: list[str], rows: list[list[str]], left: tuple[int, ...]) -> list[str]:
    """A Markdown table, line by line; columns in `left` stand to the left, others to the right."""
    rule = [":---" if i in left else "---:" for i in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def share(value: float | None) -> str:
    """A share 0..1, or a dash where it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def cut(text: str, width: int) -> str:
    """The text, shortened to a width."""
    return text if len(text) <= width else text[: width - 1] + "…"


def escape(text: str) -> str:
    """The text, so that Markdown shows it as it is."""
    for character in "\\`*_|<>[]":
        text = text.replace(character, "\\" + character)
    return text


def wrapped(line: str, width: int) -> list[str]:
    """The line, broken at spaces where it is too long; what follows is indented."""
    if len(line) <= width:
        return [line.rstrip()]
    pieces, indent = [], " " * (len(line) - len(line.lstrip()) + 2)
    while len(line) > width:
        at = line.rfind(" ", len(indent) + 1, width + 1)
        at = at if at > 0 else width
        pieces.append(line[:at].rstrip())
        line = indent + line[at:].strip()
    return [*pieces, line.rstrip()]
