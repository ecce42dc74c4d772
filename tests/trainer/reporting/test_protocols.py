"""Runs of different protocols never share a cell, a mark or an unmarked table."""

from pathlib import Path
from typing import Any

import pytest
from made_results import authors_row, frame, pretrain_result, seeds, settings_of, transfer_result, write_authors
from made_results import write_results as written
from matplotlib import pyplot as plt

from trainer.document.blocks import BulletList, Paragraph, Title
from trainer.document.markdown import markdown_words
from trainer.document.text import plain
from trainer.reporting import figures, notes
from trainer.reporting.collect import collect, write_runs
from trainer.reporting.compose import compose, write
from trainer.reporting.paper import published
from trainer.reporting.rows import AUTHORS, DEFAULT, row_of
from trainer.reporting.scale_tables import transfer_tables
from trainer.reporting.tables import sources_of
from trainer.reporting.target_tables import few_shot_table, gains_over_scratch, paper_table

BY_AUTHORS: dict[str, Any] = {"protocol": "authors", "departures": {}}
NESTEROV = {"optim.nesterov": {"used": False, "protocol": True}}


def of_authors(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same cells by the authors' protocol, in folders of their own."""
    return [result | BY_AUTHORS | {"run": f"{result['run']}-authors"} for result in results]


def both(source: str, default: tuple[float, ...], authors: tuple[float, ...], **options: Any) -> list[dict[str, Any]]:
    return seeds(source, default, **options) + of_authors(seeds(source, authors, **options))


def texts(table: Any) -> dict[str, list[str]]:
    return {title: [entry.text for entry in entries] for title, entries in table.rows}


def test_cells_are_of_one_protocol() -> None:
    runs = frame(both("mine", (0.5, 0.6), (0.7, 0.8)) + both("scratch", (0.25, 0.25), (0.125, 0.125)))
    (table,) = transfer_tables(runs, "full")
    assert texts(table) == {
        "Pets": ["25.00 ± 0.00", "55.00 ± 7.07"],
        "Pets, authors' protocol": ["12.50 ± 0.00", "75.00 ± 7.07"],
    }
    assert "Rows of different protocols cannot be compared directly: see the top of the report." in table.notes
    table = few_shot_table(runs)
    assert texts(table) == {
        "scratch, r50x1": ["25.00 ± 0.00"],
        "scratch, r50x1, authors' protocol": ["12.50 ± 0.00"],
        "mine, r50x1": ["55.00 ± 7.07"],
        "mine, r50x1, authors' protocol": ["75.00 ± 7.07"],
    }
    best = [title for title, (entry,) in table.rows if entry.best]
    assert best == ["mine, r50x1", "mine, r50x1, authors' protocol"]  # each within its protocol
    assert "Bold: the best of a column within its protocol." in table.notes
    gains = gains_over_scratch(runs)
    assert gains is not None
    assert [text[0].split(" [")[0] for text in texts(gains).values()] == ["+30.00", "+62.50"]
    assert "2 seeds" in table.caption


def test_one_protocol_is_not_spoken_of() -> None:
    runs = frame(seeds("mine", (0.5, 0.6)) + seeds("scratch", (0.25, 0.25)))
    assert notes.protocols(runs, with_paper=False) == ([], [])
    (table,) = transfer_tables(runs, "full")
    assert table.notes == ("Bold: the best of a row.",)
    assert few_shot_table(runs).notes == ("Bold: the best of a column.",)


def test_what_the_top_of_a_report_says() -> None:
    runs = frame([*both("mine", (0.5, 0.6), (0.7,)), pretrain_result("big", **BY_AUTHORS)])
    (remark,), (warning,) = notes.protocols(runs, with_paper=False)
    assert markdown_words(remark) == (
        "Runs by protocol: 2 fine-tuned by BiT and the paper's text, the default; 2 by the authors' program, here "
        "called the authors' protocol. `docs/fidelity.md` lists the differences."
    )
    (remark,), _ = notes.protocols(frame([*both("mine", (0.5,), (0.7,)), pretrain_result("big")]), with_paper=False)
    assert plain(remark).startswith(
        "Runs by protocol: 1 fine-tuned by BiT and the paper's text, the default; 1 pre-trained as the recipe has "
        "it; 1 by the authors' program"
    )
    assert markdown_words(warning).startswith("**Different protocols**: ")
    assert "`bitscale transfer --match-authors`" in markdown_words(warning)
    assert len(notes.protocols(runs[runs["protocol"] == AUTHORS], with_paper=False)[0]) == 1
    assert notes.protocols(runs[runs["protocol"] == AUTHORS], with_paper=True)[1] == []
    # a source by the authors' program, fine-tuned by the default only: nothing to confuse
    assert (
        notes.protocols(runs[(runs["protocol"] == DEFAULT) | (runs["kind"] == "pretrain")], with_paper=False)[1] == []
    )


def test_the_papers_values_are_by_the_authors_protocol() -> None:
    runs = frame(seeds("imagenet1k", (0.5, 0.6)))
    (remark,), warnings = notes.protocols(runs, with_paper=True)
    assert "the paper's own values are by the authors' protocol" in plain(remark)
    assert len(warnings) == 1
    marked = ("Rows of different protocols cannot be compared directly: see the top of the report.",)
    (table,) = transfer_tables(runs, "full", published())
    assert set(marked) <= set(table.notes)
    compared, _ = paper_table(runs, published())
    assert compared is not None
    assert set(marked) <= set(compared.notes)
    theirs = frame(of_authors(seeds("imagenet1k", (0.5, 0.6))))
    compared, _ = paper_table(theirs, published())
    assert compared is not None
    assert not set(marked) & set(compared.notes)
    assert compared.rows[0][0] == "Pets, authors' protocol: ImageNet-1k, r50x1"
    assert not set(marked) & set(transfer_tables(theirs, "full", published())[0].notes)


def test_published_files_are_by_the_authors_protocol(tmp_path: Path) -> None:
    theirs = write_authors(tmp_path / "theirs.csv", [authors_row("imagenet1k_bit50x1", "full", 0, 0.9, "pets")])
    runs = collect((theirs,)).runs
    assert list(runs["protocol"]) == [AUTHORS]
    write_runs(runs.drop(columns="protocol").assign(protocol=""), tmp_path / "old.csv")
    assert list(collect((tmp_path / "old.csv",)).runs["protocol"]) == [AUTHORS]
    (remark,), warnings = notes.protocols(runs, with_paper=False)
    assert ", 1 of them published." in plain(remark)
    assert warnings == []
    mine = written(tmp_path / "runs", both("imagenet1k", (0.5,), (0.7,)))
    report = compose(collect((theirs, mine)), tmp_path)
    text = write(report, collect((theirs, mine)).runs, tmp_path).read_text()
    for row in ("| Pets | 50.00 |", "| Pets, authors' protocol | 70.00 |", "| Pets, authors' files | 90.00 |"):
        assert row in text


def test_results_of_earlier_versions() -> None:
    old = row_of(transfer_result("mine", "5", 0, 0.5))
    assert (old["protocol"], old["departures"]) == (DEFAULT, "")
    settings = settings_of(0, sets=["chexpert"], train_view="xray_affine", image_size=224, resize=256)
    plain = row_of(pretrain_result("big", settings=settings))
    assert (plain["protocol"], plain["departures"]) == (DEFAULT, "")
    with_code = row_of(pretrain_result("big", settings=settings | {"optim": {"base_lr": 0.01, "paper_code": True}}))
    assert with_code["protocol"] == AUTHORS
    found = with_code["departures"].split("; ")
    assert {"initial head: zero instead of torch", "border of X-rays: black instead of reflect"} <= set(found)
    assert not any("Nesterov" in line or "shift" in line for line in found)


def test_protocols_survive_results_csv(tmp_path: Path) -> None:
    runs = frame(of_authors(seeds("mine", (0.5,))))
    write_runs(runs, tmp_path / "results.csv")
    assert list(collect((tmp_path / "results.csv",)).runs["protocol"]) == [AUTHORS]


def test_an_unknown_protocol_is_no_result(tmp_path: Path) -> None:
    folder = written(tmp_path, [*seeds("mine", (0.5,)), transfer_result("mine", "5", 0, 0.5, protocol="other")])
    collected = collect((folder,))
    assert (len(collected.runs), len(collected.warnings)) == (1, 1)


def test_single_flags_are_listed_with_what_they_depart_from() -> None:
    of_data = {"prepared.split": {"used": "official", "protocol": "authors"}}
    departing = transfer_result("mine", "5", 0, 0.5) | BY_AUTHORS | {"departures": NESTEROV | of_data}
    mean = {"model.mean": {"used": [0.1, 0.2, 0.3], "protocol": None}}
    mean |= {"data.classes": {"used": ["a", "b"], "protocol": []}}
    big = pretrain_result("big", protocol="default", departures=mean)
    assert notes.deviations(frame([departing, big])) == [
        "authors' protocol, Nesterov momentum: no instead of yes",
        "authors' protocol, split of the data: official instead of authors",
        "pre-training big, classes: a, b instead of all",
        "pre-training big, mean of the normalisation: 0.1, 0.2, 0.3 instead of that of the weights",
    ]
    seeds_differ = [departing, transfer_result("mine", "5", 1, 0.5) | BY_AUTHORS]
    (line,) = notes.cells_of_mixed_settings(frame(seeds_differ))
    assert plain(line).endswith("mine, r50x1 on pets, 5 (departures).")


def test_figures_have_a_panel_for_each_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    runs = frame(both("mine", (0.5, 0.6), (0.7, 0.8)) + both("mine", (0.6, 0.7), (0.8, 0.9), model="r152x4"))
    figures.few_shot(runs, tmp_path, figures.styles_of(sources_of(runs)))
    figures.by_model_size(runs, tmp_path, figures.styles_of(sources_of(runs)))
    few, sizes = ([axes.get_title(loc="left") for axes in figure.axes] for figure in drawn)
    assert few == ["r50x1", "r152x4", "r50x1, authors' protocol", "r152x4, authors' protocol"]
    assert sizes == ["Pets", "Pets, authors' protocol"]


def test_the_report_begins_with_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "runs", [*both("mine", (0.5,), (0.7,)), pretrain_result("big", **BY_AUTHORS)])
    report = compose(collect((folder,)), tmp_path)
    assert plain(report.warnings[0]).startswith("Different protocols")
    words = [plain(block.text) for block in report.blocks if isinstance(block, Paragraph)]
    assert any("docs/fidelity.md" in text for text in words)
    first_section = next(i for i, block in enumerate(report.blocks) if isinstance(block, Title) and block.level == 2)
    assert any(isinstance(b, Paragraph) and "docs/fidelity.md" in plain(b.text) for b in report.blocks[:first_section])
    assert (
        "| big | r50x1 | chexpert+mimic_cxr | authors' |"
        in write(report, collect((folder,)).runs, tmp_path).read_text()
    )
    assert not any(isinstance(block, BulletList) and not block.texts for block in report.blocks)
