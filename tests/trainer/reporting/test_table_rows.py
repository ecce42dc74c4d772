"""The numbers of tables as the rows of a file."""

import math

from trainer.document.blocks import Cell, Entry, Heading, Table
from trainer.reporting.tables import as_rows

CELL = Cell(75.904, 0.0534, 5)
TABLE = Table(
    "full_shot_a b",
    "Accuracy.",
    "target",
    (Heading("r50x1", "one_a"), Heading("r50x1", "one_a+two|b", "+two|b"), Heading("r152x4", "none")),
    (
        ("first_set", (Entry(CELL, best=True), Entry(CELL, best=True, p=0.25, against="one_a"), Entry())),
        ("first_set, paper", (Entry(Cell(1.0, math.nan, 1)), Entry(CELL, p=0.0001, against="one_a"), Entry())),
    ),
)


def test_rows_of_a_file_are_in_full_precision() -> None:
    rows = as_rows([TABLE])
    assert len(rows) == 4
    first, second = rows.to_dict("records")[:2]
    assert (first["table"], first["row"], first["group"], first["column"]) == (
        "full_shot_a b",
        "first_set",
        "r50x1",
        "one_a",
    )
    assert (first["mean"], first["std"], first["n"], first["best"]) == (75.904, 0.0534, 5, True)
    assert (second["p"], second["against"]) == (0.25, "one_a")
