"""Every page that is written, as it opens in Chromium: alone, on a narrow screen, on paper, and for all readers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PRINTED_WIDTH, Browser, OpenPage, lacking
from made_results import pretrain_result, seeds, write_results
from tiny_runs import prepare_films, train_tiny, write_films
from tiny_sets import tiny_set

from trainer.domain_distance.proximity_file import Distances, Pair, write_distances
from trainer.domain_distance.settings import Proximity
from trainer.evaluation.evaluate_run import Evaluate, evaluate_run
from trainer.reporting import proximity_page
from trainer.reporting.report_runs import Report, write_report

pytestmark = [pytest.mark.slow, pytest.mark.chromium, pytest.mark.skipif(bool(lacking()), reason=lacking())]
NARROW, WIDE = 400, 1280  # CSS pixels
SMALLEST_PX = 9.0
FIGURE_PT = 8  # of the text in figures
SOURCES, TARGETS = ("natural photographs", "chest_xrays"), ("pets", "digits")
CLAIMS = """
title = "mine"
[[claim]]
id = "gain"
text = "Pre-training gains on every target & with all images."
cells = { model = "r50x1", target = ["pets", "digits"], shots = "full" }
first = { source = "chest_xrays" }
second = { source = "scratch" }
direction = "higher"
margin = 2

[[claim]]
id = "absent"
text = "So does another."
cells = { model = "r50x1", target = "pets", shots = "full" }
first = { source = "other" }
second = { source = "scratch" }
direction = "higher"

[[summary]]
title = "all"
source = ["scratch", "chest_xrays"]
model = "r50x1"
target = "pets"
shots = ["5", "full"]
"""


def distances() -> Distances:
    pairs = [
        pair
        for place, source in enumerate(SOURCES)
        for target in TARGETS
        for pair in (
            Pair(source, target, "common", "frechet", 12.345 + place),
            Pair(source, target, "common", "kernel", 0.1 + place, 0.05 + place, 0.15 + place),
            Pair(source, target, "pixels", "grey-levels", 3.0),
            Pair(source, target, "own", "logme", -0.25),
        )
    ]
    described = {"images": 5, "fingerprint": "x"}
    network = {"name": SOURCES[0], "fingerprint": "f", "kind": "common"}
    return Distances([network], dict.fromkeys(SOURCES, described), dict.fromkeys(TARGETS, described), pairs, ["a note"])


def write_a_report(folder: Path) -> Path:
    made: list[dict[str, Any]] = [pretrain_result(SOURCES[0])]
    for place, source in enumerate(("scratch", *SOURCES)):
        for target in TARGETS:
            for number, shots in enumerate(("1", "5", "full")):
                top1 = 0.2 + 0.1 * place + 0.15 * number
                made += seeds(source, (top1, top1 + 0.021, top1 + 0.01), shots, target=target)
    runs = write_results(folder / "runs", made)
    (folder / "claims.toml").write_text(CLAIMS)
    write_distances(distances(), folder / "proximity.json")
    options: dict[str, Any] = {"claims": (folder / "claims.toml",), "proximity": folder, "laws": True, "paper": True}
    return write_report(Report((runs,), folder / "report", **options)).with_suffix(".html")


def write_a_proximity_page(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proximity_page, "measure", lambda settings: distances())
        return proximity_page.write_proximity(Proximity(SOURCES, TARGETS, (SOURCES[0],), out=folder / "proximity"))


def evaluated(run: Path, by: str | None = None) -> Path:
    return evaluate_run(Evaluate(run, by=by, resamples=100, device="cpu", threads=1))


def evaluate_findings(folder: Path) -> Path:
    data = prepare_films(write_films(folder / "raw"), folder / "hospital")
    return evaluated(train_tiny(data, folder / "runs" / "films"), by="site")


def evaluate_classes(folder: Path) -> Path:
    data = tiny_set(folder / "data", [0, 1, 2] * 8, ("eel", "cat", "dog"), splits=("train", "val", "test"))
    return evaluated(train_tiny(data, folder / "runs" / "photos"))


WRITE: dict[str, Callable[[Path], Path]] = {
    "report": write_a_report,
    "proximity": write_a_proximity_page,
    "evaluation of findings": evaluate_findings,
    "evaluation of classes": evaluate_classes,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module", params=WRITE)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> OpenPage:
    path = WRITE[request.param](tmp_path_factory.mktemp("page"))
    opened = OpenPage(browser, path)
    assert opened.requests() == [path.absolute().as_uri()]  # it stands alone
    return opened


def test_nothing_fails_and_everybody_can_read_it(page: OpenPage) -> None:
    for width in (WIDE, NARROW):
        page.resize(width)
        assert page.against_the_rules() == []
    assert page.complaints() == []
    assert page.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.value("[...document.images].every(image => image.alt.length > 20)")


def test_it_can_be_read_on_a_narrow_screen(page: OpenPage) -> None:
    page.resize(NARROW)
    assert page.value("document.documentElement.scrollWidth") <= NARROW
    assert page.value(smallest("*", "parseFloat(getComputedStyle(e).fontSize)")) >= SMALLEST_PX
    # Figures are scrolled, not shrunk: the size of their text.
    assert page.value(smallest("img", f"e.clientWidth / e.naturalWidth * {FIGURE_PT} * 96 / 72")) >= SMALLEST_PX


def test_it_can_be_printed(page: OpenPage) -> None:
    page.resize(PRINTED_WIDTH, printed=True)
    widest = page.value("Math.max(...[...document.querySelectorAll('table, img, p')].map(e => e.scrollWidth))")
    assert widest <= PRINTED_WIDTH
    assert page.value("[...document.querySelectorAll('figure')].every(e => e.scrollWidth <= e.clientWidth)")


def smallest(elements: str, number: str) -> str:
    """A script for the smallest number of the shown elements `e` of a page."""
    shown = f"[...document.body.querySelectorAll({elements!r})].filter(e => e.clientWidth > 0)"
    return f"Math.min(...{shown}.map(e => {number}))"
