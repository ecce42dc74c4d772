"""Names that folders, labels and runs have in the field, and that some library takes for something else."""

from hypothesis import strategies

NAMES = (
    "Katze \udcfc",  # of bytes that are no UTF-8
    "$5_bill_$10_bill",
    "_none",
    "<script>alert(1)</script> &amp; co",
    "a|b\nc `d` **e** [f](g)",
    " ",
    "=cmd|' /C calc'!A0",
    "{0} %s %(x)d \\n",
    "nan",
    "001",
    "猫と犬 😀",
    "שלום \u202eabc e\u0301",
    "x" * 200 + "/..\\",
    "error",
)


def names(min_size: int = 0) -> strategies.SearchStrategy[str]:
    """Any text, surrogates and control characters included, and the names above."""
    every = strategies.characters(codec=None)
    marks = strategies.sampled_from(
        "\udcfc\ud800\0\n\r\t\x1b\x85\u2028\u202e\ufeff\uffff $_\\`*[]()<>&#|{}%~^'\"-+=.!1e猫😀"
    )
    return strategies.one_of(
        strategies.text(every, min_size=min_size, max_size=30),
        strategies.text(marks, min_size=min_size, max_size=30),
        strategies.sampled_from(NAMES),
    )
