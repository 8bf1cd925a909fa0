"""Honest numbers: selection bias, importance, and the report of a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import LINE, report_of

from kerastl.errors import UserError
from kerastl.recipe import load_recipe, resolve
from kerastl.search.hyperparameters import Hyperparameter, Space, with_values


def test_noise_alone_gives_an_apparent_gain_and_no_expected_one() -> None:
    from kerastl.search.analysis import selection_bias_of

    generator = np.random.default_rng(0)
    noise = generator.exponential(1.0, (50, 200))
    bias = selection_bias_of(noise[1:], noise[0])
    assert bias.apparent > 0.1 and bias.expected < bias.apparent / 2 and bias.low < 0 < bias.high


def test_a_real_gain_is_mostly_kept() -> None:
    from kerastl.search.analysis import selection_bias_of

    generator = np.random.default_rng(0)
    losses = generator.exponential(1.0, (20, 400))
    losses[7] *= 0.5
    bias = selection_bias_of(losses[1:], losses[0])
    assert bias.expected > 0.8 * bias.apparent and bias.low > 0


def test_images_of_one_group_are_drawn_together() -> None:
    from kerastl.search.analysis import selection_bias_of

    generator = np.random.default_rng(0)
    patients = generator.exponential(1.0, (40, 20))  # losses of trials on patients; noise alone
    images = np.repeat(patients, 30, axis=1)
    groups = np.repeat(np.arange(20), 30)
    alone = selection_bias_of(patients[1:], patients[0])
    together = selection_bias_of(images[1:], images[0], groups)
    assert together.expected == pytest.approx(alone.expected, abs=0.1)
    # the control: as if each image stood for itself, nearly all of the selection bias is taken for a gain
    apart = selection_bias_of(images[1:], images[0])
    assert apart.expected > 0.95 * apart.apparent and together.expected < 0.7 * together.apparent
    assert together.low < 0 < apart.low


def test_the_report_draws_groups_together(tmp_path: Path) -> None:
    from kerastl.report.search_report import TrialRecord
    from kerastl.search.results import make_report
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    folder, generator = SearchFolder(tmp_path), np.random.default_rng(0)
    patients = generator.exponential(1.0, (6, 5)).astype(np.float32)
    losses = np.repeat(patients, 8, axis=1)
    baseline = TrialRecord("baseline", {}, score=float(losses[0].mean()), losses=losses[0])
    write_record(folder.baseline, baseline)
    for number, row in enumerate(losses[1:]):
        values = {"head.dropout": number / 10}
        record = TrialRecord(str(number), values, score=float(row.mean()), losses=row)
        write_record(folder.of_trial(str(number)), record)
    words = (folder, "d", LINE, "random", "val_loss", "", read_records(folder), "")
    apart, together = make_report(*words).bias, make_report(*words, np.repeat(np.arange(5), 8)).bias
    assert apart is not None and together is not None
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_a_gain_that_is_no_better_than_chance_leaves_the_recipe_as_it_is(tmp_path: Path) -> None:
    from kerastl.report.search_report import search_text
    from kerastl.search.results import winning_values, write_results
    from kerastl.search.search_folder import SearchFolder, read_records

    noise = np.random.default_rng(1).exponential(1.0, (31, 100)).astype(np.float32)
    noise[0] *= 0.88 / noise[0].mean()  # the recipe is a little better than what the trials draw from
    report = report_of(tmp_path / "noise", noise[0], noise[1:])
    looks_best = int(noise[1:].mean(axis=1).argmin())
    assert report.bias.apparent > 0 >= report.bias.expected, "what the test needs"
    assert (report.best, report.chance, winning_values(report)) == ("", str(looks_best), {})
    assert report.best_score == report.baseline
    assert f"trial {looks_best} with" in search_text(report) and "no better than chance" in search_text(
        report
    )
    folder, recipe = SearchFolder(tmp_path / "noise"), resolve(load_recipe("digits"), 1000, 10)
    write_results(folder, report, recipe, LINE, read_records(folder))
    assert (
        resolve(load_recipe(folder.winner_toml), 1, 2) == recipe
        and "no better than chance" in folder.winner_toml.read_text()
    )
    # the control: a trial that is better wins
    noise[7] *= 0.5
    report = report_of(tmp_path / "gain", noise[0], noise[1:])
    assert (report.best, report.chance) == ("6", "") and "no better than chance" not in search_text(report)


def test_pictures_tell_short_trials_apart_and_name_a_winner_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.report import search_plots

    # As SVG, in which words can be read.
    monkeypatch.setattr(search_plots, "save_figure", lambda figure, path: figure.savefig(path, format="svg"))
    losses = np.random.default_rng(0).normal(0.5, 0.01, (6, 50)).astype(np.float32)

    def drawn(report: Any) -> tuple[str, str]:
        search_plots.plot_keys(report, tmp_path / "keys.svg")
        search_plots.plot_parallel(report, tmp_path / "parallel.svg")
        return (tmp_path / "keys.svg").read_text(), (tmp_path / "parallel.svg").read_text()

    short, better = "fewer epochs", "orange: the winner"
    best = losses * np.array([1, 1, 1, 1, 0.5, 1], np.float32)[:, None]
    keys, lines = drawn(report_of(tmp_path / "whole", best[0], best[1:]))
    assert better in keys and better in lines and short not in keys and short not in lines
    worst = losses * np.array([0.5, 1, 1, 1, 1, 0.1], np.float32)[:, None]
    keys, lines = drawn(report_of(tmp_path / "short", worst[0], worst[1:], {3: 0.3, 4: 0.3}))
    assert better not in keys and better not in lines
    assert "hollow: with fewer epochs" in keys and "without 2 with fewer epochs" in lines
    # two of five dots are hollow, and the short trial's score of 0.05 is no end of the axis of whole ones
    assert "0.050" not in lines and "0.500" in lines


def test_a_shortened_trial_never_wins(tmp_path: Path) -> None:
    from kerastl.report.search_report import TrialRecord
    from kerastl.search.results import make_report
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    folder, losses = SearchFolder(tmp_path), np.ones(4, np.float32)
    write_record(folder.baseline, TrialRecord("baseline", {}, score=0.5, losses=losses))
    short = TrialRecord("0", {"head.dropout": 0.1}, 0.4, score=0.1, losses=losses * 0.1)
    write_record(folder.of_trial("0"), short)
    report = make_report(folder, "d", LINE, "hyperband", "val_loss", "", read_records(folder), "")
    assert (report.best, report.best_score, report.bias) == ("", 0.5, None)
    write_record(folder.of_trial("1"), dataclasses.replace(short, trial_id="1", share=1.0))
    report = make_report(folder, "d", LINE, "hyperband", "val_loss", "", read_records(folder), "")
    assert (report.best, report.best_score) == ("1", 0.1) and report.bias is not None


def test_a_dead_key_has_no_importance_and_a_live_one_has() -> None:
    from kerastl.report.search_report import COMPLETED, TrialRecord
    from kerastl.search.analysis import importance_of

    space = Space(
        (Hyperparameter("head.dropout", low=0.0, high=1.0), Hyperparameter("head.l2", low=0.0, high=1.0))
    )
    generator = np.random.default_rng(0)
    records = []
    for number in range(30):
        live, dead = generator.random(2)
        score = (live - 0.4) ** 2 + 0.01 * generator.random()
        values = {"head.dropout": live, "head.l2": dead}
        records.append(TrialRecord(str(number), values, 1.0, COMPLETED, score))
    found = importance_of(space, records)
    assert found is not None and found.explained > 0.5
    assert found.values["head.dropout"] > 0.5 and abs(found.values["head.l2"]) < 0.1
    assert importance_of(space, records[:5]) is None


def test_a_recipe_that_fails_as_it_is_loses_to_any_trial(tmp_path: Path) -> None:
    from kerastl.report.search_report import COMPLETED, FAILED, TrialRecord
    from kerastl.search.results import make_report, winning_values, write_results
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    folder, recipe = SearchFolder(tmp_path), load_recipe("digits")
    write_record(folder.baseline, TrialRecord("baseline", {}, 1.0, FAILED, reason="the loss is nan"))
    for number, score in enumerate((0.5, 0.2, None)):
        status, values = COMPLETED if score else FAILED, {"head.dropout": number / 10}
        record = TrialRecord(str(number), values, 1.0, status, score, reason="" if score else "a | b\nc")
        losses = np.zeros(4, np.float32) if score else None
        write_record(folder.of_trial(str(number)), dataclasses.replace(record, losses=losses))
    records = read_records(folder)
    report = make_report(folder, "digits", LINE, "random", "val_loss", "", records, "")
    assert winning_values(report) == {"head.dropout": 0.1} and report.bias is None
    best = resolve(with_values(recipe, winning_values(report)), 1000, 10)
    write_results(folder, report, best, LINE, records)
    assert resolve(load_recipe(folder.winner_toml), 1, 2) == best
    page = folder.page_md.read_text()
    assert "recipe as it was    failed" in page and "Failed trials" in page
    for name in ("keys.png", "parallel.png"):
        assert (tmp_path / name).stat().st_size > 1000
    # a damaged record is named
    (folder.of_trial("1") / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"trial_1/result\.json is damaged"):
        read_records(folder)


def test_a_summary_is_read_back_as_it_was_written_and_so_is_one_of_an_earlier_version(tmp_path: Path) -> None:
    import json

    from kerastl.report.search_report import Importance, SelectionBias
    from kerastl.search.results import TuneSummary, read_summary, write_summary
    from kerastl.search.search_folder import SearchFolder

    folder = SearchFolder(tmp_path)
    gain, importance = SelectionBias(0.2, 0.1, 0.0, 0.3, 12, 300), Importance({"head.dropout": 1.0}, 0.5, 12)
    summary = TuneSummary(
        tmp_path, tmp_path / "w.toml", tmp_path / "page.md", "", 0.5, 0.7, "val_loss", 12, tmp_path / "run", 0.9, None,
        gain=gain, importance=importance,
    )  # fmt: skip
    write_summary(folder, summary)
    assert read_summary(folder) == summary
    values = json.loads(folder.result_json.read_text())
    values["gain"]["images"] = values["gain"].pop("examples")
    folder.result_json.write_text(json.dumps(values))
    assert read_summary(folder) == summary
