"""What `evaluate` takes of the user's own, and what its report says of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denoiser.commands import Text, held_out_text, train_new
from denoiser.errors import CorpusError, FileError
from denoiser.evaluation.measures import Draws, Measure
from denoiser.evaluation.plots import draw_sweep
from denoiser.evaluation.report import Measured, markdown, write
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT, read_manifest
from denoiser.model.denoise import going_on, text_seed
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import SITUATIONS
from denoiser.model.training import Recipe
from denoiser.text import corpus as corpora
from denoiser.text.sources import Source
from tests.denoiser.commands import outcome, refusal
from tests.denoiser.texts import sentences

BUNDLED_REPORT = BUNDLED_CHECKPOINT.parents[1] / "EVALUATION.md"


def measures_of(sizes: dict[str, int]) -> list[Measure]:
    of_each: dict[str, dict[str, float]] = {key: dict.fromkeys(SITUATIONS, 0.5) for key in ("overlap", "gain")}
    return [
        Measure(
            domain=domain,
            level=0.1,
            method=method,
            mse=0.01,
            cosine=0.5,
            spearman=0.3,
            interval=dict.fromkeys(SITUATIONS, (0.4, 0.6)),
            gain_error=dict.fromkeys(SITUATIONS, 0.1),
            **of_each,
        )
        for domain in sizes
        for method in ("identity", "neighbours", "adapted")
    ]


def described(
    sizes: dict[str, int],
    *,
    own: bool,
    before: tuple[float, float] = (0.1, 0.2),
    manifest: dict[str, Any] | None = None,
) -> list[str]:
    """The lines of a report about sets of these sizes, with these overlaps without denoising in two draws of noise."""
    draws = [Draws(domain, {s: [*before] for s in SITUATIONS}, {s: [0.3, 0.4] for s in SITUATIONS}) for domain in sizes]
    measured = Measured(sizes, own, measures_of(sizes), draws, [], [])
    return markdown(measured, manifest or read_manifest(BUNDLED_CHECKPOINT)).splitlines()


def test_the_words_about_the_bundled_evaluation_are_those_of_its_report() -> None:
    published = BUNDLED_REPORT.read_text().splitlines()
    sizes = {
        name: int(size.replace(",", "")) for name, size in re.findall(r"(?:: |, )([\w -]+) \(([\d,]+)\)", published[2])
    }
    words = [line for line in described(sizes, own=False) if not line.startswith(("|", "Worst case"))]
    shown = [line for line in published if not line.startswith(("|", "Worst case"))]
    assert words == shown


def test_a_report_on_own_sets_claims_nothing_that_is_not_known() -> None:
    words = "\n".join(described({"own.npy": 50, "more.npy": 50}, own=True))
    assert "overlap@10 of 50 queries" in words
    assert "whether the network was trained on text like theirs is not known" in words
    assert "never saw" not in words
    assert "in none of these sets" not in words
    assert "autoencoder" not in words
    assert "overlap@10 of 50 to 1,000 queries" in "\n".join(described({"own.npy": 50, "more.npy": 2000}, own=True))


def test_a_report_on_a_model_trained_further_tells_of_its_own_text_and_of_its_start() -> None:
    start = read_manifest(BUNDLED_CHECKPOINT)
    manifest = {**going_on(start), "sha256": "0" * 64, "training_sentences": 200, "sources": []}
    words = "\n".join(described({"own.npy": 50}, own=True, manifest=manifest))
    assert f"trained on 200 sentences, going on from {start['sha256'][:12]}. " in words


def test_a_model_trained_further_with_another_seed_is_measured_on_the_text_of_its_start() -> None:
    further = {**going_on({"blend": {}, "recipe": {"seed": 3}, "per_source": 50}), "recipe": {"seed": 9}}
    assert (text_seed(further), further["per_source"]) == (3, 50)
    assert text_seed(going_on(further)) == 3


def test_draws_of_noise_are_averaged_and_their_spread_is_shown() -> None:
    cells = "| own.npy | 0.150 → 0.350 | 0.150 → 0.350 | 0.150 → 0.350 | 2.33 (2.00–3.00) |"
    assert cells in described({"own.npy": 50}, own=True)


def test_a_draw_without_any_neighbour_found_has_no_ratio() -> None:
    cells = "| own.npy | 0.100 → 0.350 | 0.100 → 0.350 | 0.100 → 0.350 | none without denoising |"
    assert cells in described({"own.npy": 50}, own=True, before=(0.0, 0.2))


def test_evaluate_measures_own_text_and_vectors(tmp_path: Path, clean: Embeddings) -> None:
    np.save(tmp_path / "own.npy", clean[:60])
    shutil.copy(Path(__file__).with_name("sentences.txt"), tmp_path / "own.txt")
    report, plot, figures = (tmp_path / name for name in ("report.md", "plot.png", "figures.json"))
    code, _, err = outcome(
        "evaluate", "--vectors", tmp_path / "own.npy", "--text", tmp_path / "own.txt",
        "--markdown", report, "--plot", plot, "--json", figures,
    )  # fmt: skip
    assert code == 0, err
    assert "own.npy, noise level 0.1" in report.read_text()
    assert "own.txt, noise level 0.1" in report.read_text()
    assert re.search(r"own.npy \(60\), own.txt \(\d+\); they are your own", report.read_text())
    assert "overlap@10 of 60 to 1" in report.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert {m["method"] for m in json.loads(figures.read_text())} >= {"identity", "zeros", "Wiener", "neighbours"}


def test_sixty_sentences_are_enough_to_measure_and_fewer_than_fifty_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(sentences(49))
    err = refusal("evaluate", "--text", tmp_path / "own.txt")
    assert "found 49 different sentences" in err
    assert "at least 50 are needed to measure: send more text" in err
    (tmp_path / "own.txt").write_text(sentences(60))
    code, out, err = outcome("evaluate", "--text", tmp_path / "own.txt")
    assert code == 0, err
    assert "own.txt (60)" in out


def test_longer_vectors_are_measured_at_length_one_and_that_is_said(tmp_path: Path, clean: Embeddings) -> None:
    np.save(tmp_path / "long.npy", clean[:60] * np.where(np.arange(60) == 3, 5, 1)[:, None])
    code, out, err = outcome("evaluate", "--vectors", tmp_path / "long.npy")
    assert code == 0, err
    assert "lengths of 1 to 5; all are measured at 1" in err
    np.save(tmp_path / "unit.npy", clean[:60])
    assert outcome("evaluate", "--vectors", tmp_path / "unit.npy")[1] == out.replace("long.npy", "unit.npy")


def test_evaluate_refuses_vectors_that_it_cannot_measure_in_one_line(tmp_path: Path, clean: Embeddings) -> None:
    for name, vectors, complaint in (
        ("absent.npy", None, "cannot read"),
        ("width.npy", np.zeros((60, 3)), "rows of 3 numbers; the model takes 384"),
        ("zeros.npy", clean[:60] * (np.arange(60) != 3)[:, None], "row 3 is all zeros"),
    ):
        if vectors is not None:
            np.save(tmp_path / name, vectors.astype(np.float32))
        assert complaint in refusal("evaluate", "--vectors", tmp_path / name)


def test_evaluate_refuses_two_sets_of_one_name(tmp_path: Path, clean: Embeddings) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "v.npy", clean[:60])
    err = refusal("evaluate", "--vectors", tmp_path / "x" / "v.npy", "--vectors", tmp_path / "y" / "v.npy")
    assert "v.npy is the name of several files" in err


@pytest.mark.parametrize("option", ["--json", "--markdown", "--plot"])
def test_evaluate_refuses_an_output_that_cannot_be_written_before_it_measures(
    tmp_path: Path, clean: Embeddings, option: str
) -> None:
    np.save(tmp_path / "own.npy", clean[:60])
    for place, complaint in (("absent/out", "No such file or directory"), (".", "Is a directory")):
        err = refusal("evaluate", "--vectors", tmp_path / "own.npy", option, tmp_path / place)
        assert f"cannot write {tmp_path / place}: {complaint}" in err
    assert [path.name for path in tmp_path.iterdir()] == ["own.npy"]


def test_a_report_or_plot_that_finds_no_room_is_refused_by_name() -> None:
    full = Path("/dev/full")
    with pytest.raises(FileError, match="cannot write /dev/full: No space left on device; make room"):
        write("# Evaluation", [], full, None)
    with pytest.raises(FileError, match="cannot write /dev/full"):
        write("# Evaluation", [], None, full)
    with pytest.raises(FileError, match="cannot write /dev/full"):
        draw_sweep(measures_of({"own.npy": 50}), full)


def make_packages(cache: Path, monkeypatch: pytest.MonkeyPatch, manual: list[str], verse: list[str]) -> None:
    """The only sources, fetched already: a manual to train on, and verse, which is unfamiliar."""
    for package, lines in (("manual", manual), ("verse", verse)):
        (cache / package).mkdir()
        (cache / package / "VERSION").write_text("2.0")
        (cache / package / "text.txt").write_text("\n\n".join(lines))
    monkeypatch.setattr(corpora, "TRAINING", (Source("manual", "*.txt", "free"),))
    monkeypatch.setattr(corpora, "DEVELOPMENT", ())
    monkeypatch.setattr(corpora, "TEST", (Source("verse", "*.txt", "free", domain="poems"),))


def test_a_checkpoint_is_measured_without_its_training_text_and_what_has_changed_since_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"The {a} book describes the {b} house." for a in ("red", "old", "new") for b in ("warm", "cold", "tall")]
    manual, verse = ([f"{line[:-1]} of {package}." for line in lines] for package in ("manual", "verse"))
    make_packages(tmp_path, monkeypatch, manual, verse)
    monkeypatch.setattr(corpora, "BASELINE_SENTENCES", 4)
    sources = [{"package": "manual", "version": "1.0"}, {"package": "verse", "version": "2.0"}]
    near = [corpora.digest("The old book describes the cold house of verse.")]
    text = held_out_text({"sources": sources, "left_out": near}, tmp_path)
    assert (len(text.learnt), len(text.evaluation["poems"])) == (4, 8)
    assert "manual was 1.0 in training and is 2.0" in (told := capsys.readouterr().err)
    assert "verse was" not in told
    everything = held_out_text({"sources": sources}, tmp_path)
    assert (len(everything.learnt), len(everything.evaluation["poems"])) == (9, 9)


def test_training_measures_on_unfamiliar_text_only_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verse = sentences(30).replace("The", "On snow a").splitlines()
    make_packages(tmp_path, monkeypatch, sentences(240).splitlines(), verse)
    recipe = Recipe(steps=2, batch=16, hidden=16, blocks=1)
    plain, measured = (
        train_new(tmp_path / "made", Text(per_source=300, measured=asked), tmp_path, recipe) for asked in (False, True)
    )
    assert plain["sha256"] == measured["sha256"]
    assert [{row["domain"] for row in made["figures"]} for made in (plain, measured)] == [
        {"in-domain"},
        {"in-domain", "poems"},
    ]
    assert "left_out" in measured
    assert "left_out" not in plain


def test_training_on_too_few_sentences_of_packages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_packages(tmp_path, monkeypatch, sentences(190).splitlines(), [])
    with pytest.raises(CorpusError, match=r"only \d+ of the sentences held out .* at least 20 are needed"):
        train_new(tmp_path / "made", Text(per_source=300), tmp_path, Recipe(steps=1, hidden=16, blocks=1))
