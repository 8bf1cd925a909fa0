"""A search with kerastl beside a plain Keras Tuner search (`plain_search.py`) over the same rates and unfreeze points.

    same     the same settings run by both: ours whole from an empty store, the plain side's time from a timed part of
             each kind of its work, multiplied by its epochs; the limit from bare rates of the same run; forward passes
             counted; the scores of both
    until    `kerastl tune` with its defaults over the same axes, until it holds a score as good as the plain side's best,
             beside the plain search's whole time, or for an eighth of that; and when what it holds is as good with
             seeds that chose nothing
    workers  the same search by one process and by two
    winner   the winner of `kerastl tune` beside the recipe as it was, over some seeds, on the test split
    memory   what the process holds for itself over many trials

Rows are kept under a key of all that they depend on: an interrupted benchmark goes on where it stopped, and trials whose
features were made before find them in the work folder.

    python benchmarks/search.py --part same --data DIR --weights DIR
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import plain_search
from plain_search import EVERYTHING, NOTHING, POINT
from rows import digest_of
from search_bench import (
    MONITOR,
    Bench,
    limit_of,
    ours_of,
    plain_each,
    plain_scores,
    spec_of,
    spread,
)

from kerastl.features.cache import Cache
from kerastl.jobs.open import open_splits
from kerastl.progress import Progress
from kerastl.report.search_report import TrialRecord
from kerastl.search.head_phases import HeadPhases
from kerastl.search.hyperparameters import with_values
from kerastl.search.job import BASELINE, open_runner, oracle_of, tune
from kerastl.search.search_folder import SearchFolder, read_record, read_records
from kerastl.search.shared import Shared
from kerastl.search.spec import SearchSettings
from kerastl.search.trial import run_trial, search, trial_recipe
from kerastl.search.workers import search_with_workers

# How many times less than the plain search the time is to be.
AIM = 8.0
STUDENT_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}


def same(bench: Bench) -> dict[str, Any]:
    """The same settings by both."""
    arguments = bench.arguments
    used = [point for point in bench.points if any(one[POINT] == point for one in bench.settings)]
    parts, bare = {}, {}
    for point in [NOTHING, *(point for point in used if point != NOTHING)]:
        what: dict[str, Any] = {"point": point, "steps": arguments.timed_part, "repeat": arguments.repeat}
        for kind, found, of in (
            ("bare", bare, plain_search.bare_of), ("part", parts, plain_search.part_of)
        ):  # fmt: skip
            found[point] = bench.row(
                "plain",
                {"kind": kind, **what},
                lambda of=of, at=point: of(bench.plain, at, arguments.timed_part),
            )
    folder = bench.folder(f"same-{arguments.repeat}")
    asked = [
        {"kind": "setting", "number": n, "repeat": arguments.repeat, **values}
        for n, values in enumerate(bench.settings)
    ]
    if not any(bench.key("ours", one) in bench.rows.known for one in asked):
        shutil.rmtree(folder, ignore_errors=True)  # an empty store
    recipe, heads = bench.recipe(folder / "store"), HeadPhases(folder / "heads")
    session, ours = time.strftime("%FT%T"), []
    with Cache(recipe.cache, folder / "scratch") as cache:
        shared = Shared(open_splits(recipe)[1], cache, 0, len(asked))

        def trial(values: dict[str, Any]) -> dict[str, Any]:
            passes, trained, started = shared.forward_passes, heads.trained, time.perf_counter()
            one = trial_recipe(recipe, ours_of(values), shared)
            result = run_trial(one, shared, heads, monitor=MONITOR)
            seconds, passed = time.perf_counter() - started, shared.forward_passes - passes
            counted = {"forward_passes": passed, "heads": heads.trained - trained}
            return {"score": result.score, "seconds": seconds, "session": session, **counted}

        for what, values in zip(asked, bench.settings, strict=True):
            ours.append(bench.row("ours", what, lambda values=values: trial(values)))
    scores = plain_scores(bench)
    differences = [one["score"] - other for one, other in zip(ours, scores, strict=False)]
    each = plain_each(bench, parts)
    plain, seconds = sum(each), sum(row["seconds"] for row in ours)
    limit = limit_of(bench, bare)
    # Pooled features alone are a cut of their own where their trial comes before all others.
    cuts = len({NOTHING if one[POINT] == EVERYTHING else one[POINT] for one in bench.settings})
    once = bench.counts["train"] + bench.counts["validation"]
    found = {
        "settings": len(ours), "scored": len(scores),
        "plain_seconds_scaled": plain, "plain_seconds_each": each, "ours_seconds": seconds, "ratio": plain / seconds,
        "limit": limit, "share_of_limit": plain / seconds / limit, "sessions": len({r["session"] for r in ours}),
        "forward_passes": sum(row["forward_passes"] for row in ours), "one_per_image_and_cut_at_most": once * cuts,
        "head_phases": sum(row["heads"] for row in ours), "best_ours": max(row["score"] for row in ours),
        "best_plain": max(scores), **spread("score_difference", differences),
    }  # fmt: skip
    if arguments.whole:
        what = {"kind": "whole", "trials": arguments.whole}
        with tempfile.TemporaryDirectory() as scratch:
            whole = bench.row(
                "plain",
                what,
                lambda: {
                    "found": plain_search.search_whole(bench.plain, arguments.whole, arguments.seed, scratch)
                },
            )["found"]
        assert [one["values"] for one in whole] == bench.settings[: len(whole)]
        against = [one["score"] - other for one, other in zip(whole, scores, strict=False)]
        found |= spread("whole_loop_score_minus_shortcut", against)
        found["whole_loop_seconds_over_scaled"] = sum(one["seconds"] for one in whole) / sum(
            each[: len(whole)]
        )
    return found


def until(bench: Bench) -> dict[str, Any]:
    """Our tuner, until it holds a score as good as the plain side's best, beside the plain search's whole time.

    Each side trains as it does, ours by its defaults: axes, images and the score are the same. The best of many single trainings is partly luck, the plain side's and ours. So what either side holds is trained again
    with seeds that chose nothing, and compared by its mean over them, too.
    """
    summary, arguments = same(bench), bench.arguments
    place, judged = bench.folder("until"), {"head_phase.monitor": MONITOR, "finetune_phase.monitor": MONITOR}
    recipe = with_values(bench.recipe(place / "store", defaults=True), judged)
    # Keras counts in thirty-two bits.
    goal = summary["best_plain"] - 1e-6
    whole, most = summary["plain_seconds_scaled"], arguments.settings * 3
    at = plain_scores(bench).index(summary["best_plain"])
    best, until_best = bench.settings[at], sum(summary["plain_seconds_each"][: at + 1])
    theirs = [
        bench.row(
            "plain",
            {"kind": "fresh", "fresh_seed": seed, **best},
            lambda seed=seed: {"score": plain_search.score_of(bench.plain, best, seed)},
        )["score"]
        for seed in arguments.fresh_seeds
    ]

    def measure() -> dict[str, Any]:
        spec = spec_of(bench, recipe, SearchSettings("bayesian", most))
        folder = SearchFolder(place / "search")
        oracle = oracle_of(spec)

        def records() -> list[TrialRecord]:
            found = [read_record(folder.baseline), *read_records(folder)]
            return [record for record in found if record and record.score is not None]

        def enough() -> bool:
            done = records()
            late = sum(record.seconds for record in done) > whole / AIM
            return late or max(float(record.score or 0) for record in done) >= goal

        with open_runner(spec, folder) as runner:
            runner.run(folder.baseline, BASELINE, {})
            oracle.open(folder)
            oracle.out_of_time = enough
            search(oracle, runner)
        trials = [{"seconds": r.seconds, "score": r.score, "values": r.values} for r in records()]
        return {"trials": trials}

    trials = bench.row("ours", {"kind": "until", "goal": goal, "most": most}, measure)["trials"]
    seconds, held = 0.0, []
    for trial in trials:
        seconds += trial["seconds"]
        if not held or trial["score"] > held[-1]["score"]:
            held.append({**trial, "seconds": seconds})
    with Cache(recipe.cache, place / "scratch") as cache:
        shared, heads = Shared(open_splits(recipe)[1], cache, 0, len(held)), HeadPhases(place / "heads")

        def again(values: dict[str, Any], seed: int) -> dict[str, Any]:
            one = trial_recipe(recipe, {**values, "seed": seed}, shared)
            return {"score": run_trial(one, shared, heads, monitor=MONITOR).score}

        for one in held:
            one["again"] = [
                bench.row(
                    "ours",
                    {"kind": "fresh", "fresh_seed": seed, **one["values"]},
                    lambda one=one, seed=seed: again(one["values"], seed),
                )["score"]
                for seed in arguments.fresh_seeds
            ]
    mean = statistics.fmean(theirs)
    lucky = next((one["seconds"] for one in held if one["score"] >= goal), None)
    honest = next((one["seconds"] for one in held if statistics.fmean(one["again"]) >= mean), None)
    return {
        "plain_seconds_scaled": whole, "plain_seconds_until_best": until_best, "trials": len(trials), "seconds": seconds,
        "goal": goal, "best": held[-1]["score"], "reached_after": lucky, "times_less": lucky and whole / lucky,
        **spread("plain_best_again", theirs), "held": held,
        "as_good_again_after": honest, "times_less_again": honest and whole / honest,
        "times_less_again_than_until_best": honest and until_best / honest,
    }  # fmt: skip


def workers(bench: Bench) -> dict[str, Any]:
    """The same search by one process and by two, each from an empty store."""
    rows = {}
    for count in (1, 2):
        place = bench.folder(f"workers-{count}")

        def measure(count: int = count, place: Path = place) -> dict[str, Any]:
            shutil.rmtree(place, ignore_errors=True)
            settings = SearchSettings("random", bench.arguments.settings, workers=count)
            spec = spec_of(bench, bench.recipe(place / "store"), settings)
            folder = SearchFolder(place / "search")
            folder.path.mkdir(parents=True)
            oracle, started = oracle_of(spec), time.perf_counter()
            oracle.open(folder)
            if count > 1:
                search_with_workers(oracle, spec.to_dict(), count, Progress())
            else:
                with open_runner(spec, folder) as runner:
                    search(oracle, runner)
            seconds, records = time.perf_counter() - started, read_records(folder)
            passes = sum(record.forward_passes for record in records)
            best = max(float(record.score or 0) for record in records)
            return {"seconds": seconds, "trials": len(records), "forward_passes": passes, "best": best}

        rows[count] = bench.row(
            "ours", {"kind": "workers", "workers": count, "trials": bench.arguments.settings}, measure
        )
    return {f"seconds_{n}": row["seconds"] for n, row in rows.items()} | {
        "speed_up": rows[1]["seconds"] / rows[2]["seconds"],
        "forward_passes": [row["forward_passes"] for row in rows.values()],
    }


def winner(bench: Bench) -> dict[str, Any]:
    """The winning recipe of `kerastl tune` beside the recipe as it was, by seeds."""
    from ours import fit_and_measure

    arguments, place = bench.arguments, bench.folder("winner")
    recipe = bench.recipe(place / "store", defaults=True)
    file = (
        arguments.winner
        or tune(
            recipe,
            settings=SearchSettings(trials=arguments.settings),
            directory=place / "search",
            runs_dir=place / "runs",
            export_model=False,
        ).winner
    )
    text = digest_of([file])
    rows: dict[bool, list[float]] = {True: [], False: []}
    for seed in arguments.seeds:
        for won in rows:
            what = {"kind": "fit", "fit_seed": seed, "won": won, "sets": arguments.sets}
            what |= {"recipe": text} if won else {}

            def measure(won: bool = won, seed: int = seed) -> dict[str, Any]:
                if won:
                    return fit_and_measure(
                        str(file), (), {"seed": seed, "cache.directory": str(place / "store")}
                    )
                flags = {"seed": seed, "data.source": str(arguments.data)}
                flags |= {
                    "data.examples_per_class": arguments.per_class,
                    "cache.directory": str(place / "store"),
                }
                flags |= {"backbone.name": arguments.backbone, "backbone.image_size": arguments.image_size}
                return fit_and_measure(
                    None, arguments.sets, {**flags, "backbone.weights": recipe.backbone.weights}
                )

            rows[won].append(bench.row("ours", what, measure)["finetune_accuracy"])
    gains = [a - b for a, b in zip(rows[True], rows[False], strict=True)]
    found = {"winner": rows[True], "as_it_was": rows[False], **spread("gain", gains)}
    half = STUDENT_95.get(len(gains), 2.0) * found["gain_error"]
    return found | {"gain_interval": [found["gain"] - half, found["gain"] + half]}


def memory(bench: Bench) -> dict[str, Any]:
    """What the process holds for itself after every few of many trials, all their features being stored."""
    from memory import memory_of

    arguments, place = bench.arguments, bench.folder("memory")

    def measure() -> dict[str, Any]:
        drawn = plain_search.draw(bench.points, arguments.memory_trials, arguments.seed)
        recipe = bench.recipe(place / "store")
        epochs = {"head_phase.epochs": 1, "finetune_phase.epochs": 1}
        held: list[int] = []
        shutil.rmtree(place / "heads", ignore_errors=True)
        with Cache(recipe.cache, place / "scratch") as cache:
            shared, heads = Shared(open_splits(recipe)[1], cache, 0, len(drawn)), HeadPhases(place / "heads")
            for values in drawn:
                one = trial_recipe(recipe, {**ours_of(values), **epochs}, shared)
                run_trial(one, shared, heads, monitor=MONITOR)
                held.append(memory_of(os.getpid())[0])
        return {"own_megabytes": held}

    held = bench.row("ours", {"kind": "memory", "trials": arguments.memory_trials}, measure)["own_megabytes"]
    every = max(1, len(held) // 10)
    third = max(1, len(held) // 3)
    return {
        "own_megabytes": held[::every] + held[-1:], "peak": max(held),
        "last_third_over_middle_third": max(held[-third:]) / max(held[-2 * third : -third] or held),
    }  # fmt: skip


PARTS = {part.__name__: part for part in (same, until, workers, winner, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=sorted(PARTS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--per-class", type=int, help="train on this many images a class")
    parser.add_argument("--head-epochs", type=int, default=10)
    parser.add_argument("--finetune-epochs", type=int, default=5)
    parser.add_argument("--joins", type=int, default=6, help="unfreeze points that are searched")
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the settings")
    parser.add_argument("--repeat", type=int, default=0, help="of `same`: another number times all anew")
    parser.add_argument(
        "--timed-part", type=int, default=8, help="steps of each kind of the plain side's work"
    )
    parser.add_argument(
        "--scored", type=int, help="compare the scores of the first so many settings; all without it"
    )
    parser.add_argument("--whole", type=int, default=0, help="run so many plain trials whole: hours")
    parser.add_argument(
        "--fresh-seeds", nargs="+", type=int, default=[101, 102, 103, 104],
        help="of `until`: for training again what either side holds",
    )  # fmt: skip
    parser.add_argument("--winner", type=Path, help="a winner.toml; searched without it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the winner's fits")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="recipe key of `winner`")
    parser.add_argument("--memory-trials", type=int, default=50)
    parser.add_argument("--work", type=Path, default=Path("runs/search-benchmark"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search.jsonl"))
    arguments = parser.parse_args()
    if arguments.part == "until" and arguments.scored is not None:
        parser.error("--part until needs the best score of all settings: leave out --scored")
    print(json.dumps({"part": arguments.part, **PARTS[arguments.part](Bench(arguments))}, indent=2))


if __name__ == "__main__":
    main()
