"""The commands of a page: fenced blocks of bash and Python, each with what its marker says that it needs."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data_pipelines" / "datasets" / "README.md",
]
_BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>.+?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_SPAN = re.compile(r"`((?:bitscale|python|torchrun|pip|pytest|launchers/|benchmarks/)[^`\n]* [^`\n]*)`")
# A form of a command, not one to type: FILES, K/N, <source> or dots stand for something.
_FORM = re.compile(r"\b[A-Z]{2,}\b|[<{…]|\.\.\.")

# What takes long is run smaller: these flags get these values where a line matches, whether the page gives them or not.
SMALL = [
    (r"^bitscale pretrain own", {"--schedule.epochs": "2"}),
    (
        r"^bitscale pretrain (?!own)|^launchers/torchrun",
        {"--schedule.steps": "12", "--schedule.warmup-steps": "2", "--global-batch-size": "16", "--eval-every": "12"},
    ),
    (r"^bitscale pretrain (embedded|my)", {"--data.classes": "Bag Coat", "--data.images": "100"}),
    (r"^bitscale submit pretrain embedded", {"-- --out": "runs/submitted"}),  # that of the recipe was made small
    (r"^bitscale (transfer|sweep)(?!.*--mode)", {"--schedule.steps": "2", "--global-batch-size": "4"}),
    (r"^bitscale sweep", {"--seeds": "2"}),
    (r"^bitscale evaluate", {"--resamples": "100"}),
    (r"^bitscale prepare phantom", {"--images": "60"}),
    (r"^bitscale scaling", {"--gpus": "1", "--window-steps": "1"}),
    (r"^python benchmarks/loading", {"--rounds": "1", "--num-images": "20", "--startup-samples": "1000"}),
]


@dataclass(frozen=True)
class Block:
    """A fenced block; needs: what a test does not have, such as a cluster."""

    language: str
    code: str
    needs: str | None


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(found["language"], found["code"], found["needs"]) for found in _BLOCK.finditer(text)]


def inline_commands(text: str) -> list[str]:
    """Whole commands in prose, with arguments that could be typed."""
    spans = [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text))]
    return [span for span in spans if not _FORM.search(span) and not _is_name(span)]


def script_of(blocks: list[Block]) -> str:
    """What bash runs of a page: all that needs nothing else, in small sizes."""
    return "".join(_runnable(block) for block in blocks if block.needs is None)


def _is_name(span: str) -> bool:
    """Whether a span names a command, with its subcommand or one flag, and does not show how it is used."""
    rest = re.sub(r"^bitscale \w+|^python (-m [\w.]+|\S+\.py)|^\S+", "", span)
    return re.fullmatch(r"( --[\w.-]+( \S+)?)?", rest) is not None


def _runnable(block: Block) -> str:
    if block.language == "python":
        return f"python - <<'PYTHON'\n{block.code}PYTHON\n"
    lines = block.code.replace("\\\n", " ").splitlines()
    return "".join(f"{made_small(line)}\n" for line in lines)


def made_small(line: str) -> str:
    """A command in the size of a test."""
    for pattern, flags in SMALL:
        for flag, value in flags.items() if re.search(pattern, line) else ():
            given = re.compile(rf"{re.escape(flag)} \S+")
            line = (
                given.sub(f"{flag} {value}", line) if given.search(line) else f"{line.split('  #')[0]} {flag} {value}"
            )
    return line
