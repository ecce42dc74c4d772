"""What SECURITY.md claims of the code as a whole, and what no other test shows."""

import ast
import gzip
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_pipelines.common.files import write_json
from trainer.evaluation.predicting.inputs import _of_tar
from trainer.run_folder.csv_log import CsvLog
from trainer.run_folder.metric_logger import MetricLogger

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("trainer", "data_pipelines", "launchers")  # benchmarks read no files of others
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Place, name and named arguments of every call in the packages."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = {word.arg: word.value for word in node.keywords if word.arg}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), named


CALLS = list(calls())
NEVER = {
    "a shell or code from text": r"os\.(system|popen)|eval|exec|compile|subprocess\.getoutput|builtins\.\w+",
    "a pickle": r"(pickle|dill|cloudpickle|joblib|marshal)\.loads?|(pd|pandas)\.read_pickle|shelve\.open",
    "an archive unpacked by its names": r".*\.(extractall|unpack_archive)|\w*(tar|zip|archive)\w*\.extract",
    "YAML": r"yaml\.\w+",
    "a socket opened by hand": r"\w*(sock|listener|server)\w*\.(bind|listen)|socketserver\.\w+|.*HTTPServer",
}


@pytest.mark.parametrize("what", NEVER)
def test_is_never_called(what: str) -> None:
    found = [place for place, name, _ in CALLS if re.fullmatch(NEVER[what], name)]
    assert found == []


def test_what_is_never_called_would_be_found() -> None:
    examples = ("os.system", "pickle.load", "tar.extractall", "yaml.load", "listener.bind")
    assert all(any(re.fullmatch(pattern, name) for pattern in NEVER.values()) for name in examples)
    assert len(CALLS) > 3000


def test_security_md_names_all_that_listens() -> None:
    opened = r"(\w+\.)*(start_server|start_unix_server|create_server)|(\w+\.)*TCPStore"
    clients = ("False", "None")  # of a store that another process serves
    served = {
        place.partition(":")[0]
        for place, name, named in CALLS
        if re.fullmatch(opened, name)
        and not (name.endswith("TCPStore") and ast.unparse(named.get("is_master", ast.Constant(False))) in clients)
    }
    network = (ROOT / "SECURITY.md").read_text().partition("## The network")[2]
    assert served == set(re.findall(r"^\| `(\S+\.py)` \|", network, re.MULTILINE))


def test_no_process_is_started_through_a_shell() -> None:
    assert [place for place, _, named in CALLS if "shell" in named] == []


def test_arrays_and_weights_are_read_without_executing_anything() -> None:
    loads = [(place, named) for place, name, named in CALLS if name in ("np.load", "numpy.load")]
    assert loads
    assert [
        place for place, named in loads if ast.unparse(named.get("allow_pickle", ast.Constant(False))) != "False"
    ] == []
    torch_loads = [(place, named) for place, name, named in CALLS if name == "torch.load"]
    assert torch_loads
    assert [
        place for place, named in torch_loads if ast.unparse(named.get("weights_only", ast.Constant(None))) != "True"
    ] == []


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_run_folders_are_as_open_as_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    former = os.umask(umask)
    try:
        write_json(tmp_path / "status.json", {})
        CsvLog(tmp_path / "unseen.csv", ("step",), enabled=True).add([(1,)])
        MetricLogger(tmp_path, 0, 0, 1, "demo").close()
    finally:
        os.umask(former)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"status.json", "unseen.csv", "metrics.jsonl", "heartbeat.json"}
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {oct(mode)}


@pytest.mark.parametrize("name", ["bomb.png", "bomb"])
def test_compressed_tar_with_a_false_size_is_refused_by_header(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipelines.image_files.folder_scan.why_not_one", None)  # it would read all of it
    head = b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\x02".ljust(1 << 20, b"\0")
    member = tarfile.TarInfo(name)
    member.size = 1 << 40
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(member.tobuf() + head)
    inputs = list(_of_tar(tmp_path / "bomb.tar.gz", "bomb", Counter()))
    reads: list[Callable[[], bytes]] = [one.read for one in inputs]
    with pytest.raises(ValueError, match="too many for an image"):
        reads[0]()
    assert len(reads) >= 1


def test_every_test_that_security_md_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
