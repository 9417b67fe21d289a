"""The sections of `benchmarks.run` on each platform, the most important first."""

from typing import NamedTuple

from benchmarks.run_settings import PEAK
from benchmarks.sections import Section
from benchmarks.train_plans import PLANS

CORRECTNESS = "correctness"
_ABOUT_MODELS = {
    "cpu": "Whole steps (masks, forward, backward, clipping, AdamW), dropout 0.1, on the "
    "same synthetic rows, in turns. Sequences, tokens and FLOPs are the useful ones: real "
    "tokens, the masked-LM head on the masked positions. Memory is that of a process; "
    "compile time is to the end of PyTorch's first step, and without any step for ours; "
    "host time is until a step's call came back.",
    "gpu": "Whole steps (masks, forward, backward, clipping, AdamW), dropout 0.1, on the "
    "same synthetic rows, each candidate alone with the device. Sequences, tokens and "
    "FLOPs are the useful ones: real tokens, the masked-LM head on the masked positions. "
    "Memory is what each library's allocator gave out; compile time is to the end of "
    "PyTorch's first step, and without any step for ours; host time is until a step's "
    "call came back.",
}


class TimedSection(NamedTuple):
    """A section and what it may take of the time."""

    section: Section
    weight: float
    """Seconds that it would like, of nine minutes."""
    least_secs: float
    """With less there is no use in beginning."""
    quick: bool = False
    """Whether it is part of a quick run."""

    @property
    def name(self) -> str:
        return self.section.name

    @property
    def title(self) -> str:
        return self.section.title


def sections_of(platform: str) -> list[TimedSection]:
    """In the order of a run."""
    return [*_first(platform), *_models(platform), *_last(platform)]


def _first(platform: str) -> list[TimedSection]:
    return [
        TimedSection(
            Section(
                CORRECTNESS,
                "Correctness on this machine",
                "benchmarks.correctness:check",
                about="BERT-mini with random weights in every tensor, rows of 128 tokens; "
                "tolerances are those of the tests. Without dropout, but for the proof "
                "of attention alone.",
            ),
            weight=40.0,
            least_secs=15.0,
            quick=True,
        ),
        TimedSection(
            Section(
                PEAK,
                "Peak: a large matrix product",
                "benchmarks.peak:measure_peak",
                about="The fastest of some products of square matrices; shares below are "
                "stated against the faster library's.",
            ),
            weight=20.0,
            least_secs=5.0,
            quick=True,
        ),
    ]


def _models(platform: str) -> list[TimedSection]:
    weights = {
        "cpu": {
            "mini-128": 85.0,
            "small-128": 55.0,
            "base-128": 110.0,
            "base-512": 130.0,
        },
        "gpu": {"large-512-packed": 170.0, "large-128": 110.0, "base-128": 80.0},
    }.get(platform, {})
    plans = PLANS[platform]
    return [
        TimedSection(
            Section(
                plan.task.name,
                _title(plan.task.name),
                "benchmarks.train_sections:measure_model",
                (plan.task.name,),
                about=_ABOUT_MODELS["cpu" if platform == "cpu" else "gpu"],
            ),
            weight=weights.get(plan.task.name, 110.0),
            least_secs=25.0,
            quick=plan is plans[0],
        )
        for plan in plans
    ]


def _title(name: str) -> str:
    size, length, *packed = name.split("-")
    return f"BERT-{size}, T={length}{', packed rows' if packed else ''}"


def _last(platform: str) -> list[TimedSection]:
    sections = [
        TimedSection(
            Section(
                "end-to-end",
                "A run, loader included",
                "benchmarks.end_to_end:train_end_to_end",
                about="`pretrain` on the documentation of installed packages, packed "
                "rows; windows of five steps, without the first.",
                huge_pages=True,
            ),
            weight=50.0,
            least_secs=30.0,
        ),
    ]
    if platform == "cpu":
        sections += [
            TimedSection(
                Section(
                    "start-up",
                    "Start-up",
                    "benchmarks.start_up:time_start_up",
                    about="`bert-jax pretrain --config bert_base` from the command line.",
                ),
                weight=45.0,
                least_secs=30.0,
            ),
        ]
    return sections
