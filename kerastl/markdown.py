"""Markdown pages from templates that a person can edit: Jinja, https://jinja.palletsprojects.com/templates."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from kerastl.errors import UserError
from kerastl.wording import counted, duration, escape, share, visible


class Markdown(str):
    """Text that is Markdown already; all other values of a page are escaped."""


def render(template: Path, **values: Any) -> str:
    """Fill a template.

    Each value that it shows is escaped and put into one line, so that no name of a class or file changes the page; what it
    passes through the filter `code` becomes a code span, and `markdown` leaves a text as it is. The other filters are `counted`
    (`{{ 3|counted("class", "classes") }}`), `duration` (of seconds), `share` (0..1, or a dash for None) and `number`
    (`{{ 0.98|number(".3f") }}`, by Python's format specifications).

    Args:
        template: the file.
        values: by the names under which the template shows them.

    Raises:
        UserError: the template has a mistake, or shows a value that is not there; names its file and what is wrong.
    """
    import jinja2

    try:
        return _environment(template.parent).get_template(template.name).render(values)
    except jinja2.TemplateError as error:
        line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        problem = (
            f"there is no such file: {error}" if isinstance(error, jinja2.TemplateNotFound) else str(error)
        )
        raise UserError(
            f"The template {template}{line} cannot be filled: {problem}. Mend it, or install kerastl again for the one that it "
            "brings."
        ) from error


def code(value: object) -> Markdown:
    """A code span, between more backticks than stand together in it (CommonMark 0.31.2, 6.1)."""
    text = _one_line(value)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return Markdown(f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}")


def _one_line(value: object) -> str:
    return visible(" ".join(str(value).splitlines()))


def _shown(value: object) -> str:
    return value if isinstance(value, Markdown) else escape(_one_line(value))


@functools.cache
def _environment(folder: Path) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # that is for HTML
        finalize=_shown,
    )
    environment.filters |= {
        "code": code,
        "counted": counted,
        "duration": duration,
        "markdown": Markdown,
        "number": format,
        "share": share,
    }
    return environment
