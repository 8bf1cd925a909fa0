"""Pages from templates: whatever is shown stays text, and what is missing is an error."""

from __future__ import annotations

import configparser
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from test_model_card import card_of, facts
from test_report import make_report

from kerastl.errors import UserError
from kerastl.markdown import code, render
from kerastl.report.page import write_report
from kerastl.run import Run

PACKAGE = Path(__file__).parents[1] / "kerastl"
HOSTILE = (
    "a|b", "*b*", "`c`", "``d", "<script>", "[e](f)", "g_h_i", "_s_", "__t__", "\\", "![j](k)", "l\n\n# m", "n\r\n| o |", "p\x1b[2J",
)  # fmt: skip


def page(folder: Path, template: str, **values: Any) -> str:
    (folder / "page.md.j2").write_text(template)
    return render(folder / "page.md.j2", **values)


def structure(text: str) -> list[str]:
    """Kinds of all parts of a page, in order, without what they say."""
    parts = MarkdownIt("commonmark").enable("table").parse(text)
    return [kind for each in parts for kind in (each.type, *(inner.type for inner in each.children or ()))]


def shown(text: str) -> str:
    """What a reader sees."""
    parts = MarkdownIt("commonmark").enable("table").parse(text)
    return "".join(inner.content for each in parts for inner in each.children or ())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_value_stays_text_wherever_it_stands(tmp_path: Path, name: str) -> None:
    template = "# {{ x }}\n\n- {{ x }}\n\n| a | b |\n| --- | --- |\n| {{ x }} | 1 |\n\nA {{ x|code }}.\n"
    text = page(tmp_path, template, x=name)
    assert structure(text) == structure(page(tmp_path, template, x="plain"))
    assert shown(text).count(" ".join(name.splitlines()).replace("\x1b", "�")) >= 4
    raw = page(tmp_path, template.replace("{{ x }}", "{{ x|markdown }}"), x=name)
    unharmed = name in ("``d", "g_h_i", "\\")
    assert ((structure(raw), shown(raw)) == (structure(text), shown(text))) is unharmed, (
        "the filter leaves it as it is"
    )


@pytest.mark.parametrize("text", ["a", "`", "a``b`", "`a`"])
def test_a_code_span_holds_backticks(text: str) -> None:
    (paragraph,) = [each for each in MarkdownIt().parse(f"x {code(text)} y") if each.children]
    assert [(each.type, each.content) for each in paragraph.children or ()][1] == ("code_inline", text)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ x }} {{ y }}", r"page\.md\.j2 cannot be filled: 'y' is undefined\. Mend it"),
        ("one\n{% if %}", r"page\.md\.j2, line 2 cannot be filled: "),
        ("{{ x|nothing }}", r"page\.md\.j2, line 1 cannot be filled: No filter named 'nothing'"),
    ],
)
def test_a_template_with_a_mistake_is_named(tmp_path: Path, template: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        page(tmp_path, template, x=1)
    with pytest.raises(UserError, match=r"other\.md\.j2 cannot be filled: there is no such file"):
        render(tmp_path / "other.md.j2")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_class_and_no_warning_changes_the_card_or_the_page(tmp_path: Path, name: str) -> None:
    def files(name: str) -> tuple[str, str]:
        report = dataclasses.replace(make_report([name, "dog", "truck"]), warnings=(f"'{name}' is rare",))
        run = Run(tmp_path)
        write_report(run, report)
        test = report.metrics.to_dict()
        card = card_of(classes=[name, "dog", "truck"], test=test, warnings=[f"'{name}' is rare"], source=name)
        return run.report_md.read_text(), card

    for text, plain in zip(files(name), files("cat"), strict=True):
        assert structure(text) == structure(plain)


def test_every_template_is_shipped() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(PACKAGE.parent / "setup.cfg", encoding="utf-8")
    folders = {path.parent for path in PACKAGE.rglob("*.j2")}
    assert {folder.name for folder in folders} == {"export", "report"}
    for folder in folders:
        patterns = config["options.package_data"][f"kerastl.{folder.name}"].split()
        assert all(any(path.match(pattern) for pattern in patterns) for path in folder.glob("*.j2"))


def test_the_facts_of_a_card_are_what_the_template_shows() -> None:
    """The negative control of the helper: without a fact there is no card."""
    with pytest.raises(UserError, match="'backbone' is undefined"):
        from kerastl.export.card import _card

        known = {key: value for key, value in facts().items() if key != "backbone"}
        _card({**known, "name": "m", "exported": "", "parity": {"signatures": []}, "warmup_request_count": 0})
