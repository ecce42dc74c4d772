"""A damaged checkpoint is passed over for the one before it; a run with none that is sound is not begun anew."""

from pathlib import Path

import pytest
from saved_runs import STEPS, equal, trained

from data_pipelines.common.errors import InputError
from trainer import checkpoint

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
def test_a_damaged_checkpoint_is_passed_over(
    how: str, phantoms: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    trained(phantoms, run_dir)
    (run_dir / "result.json").unlink()
    newest = checkpoint.path_of(run_dir, STEPS)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 16
    newest.write_bytes({"flipped": content, "cut": content[: len(content) // 2], "emptied": b""}[how])
    trained(phantoms, run_dir)
    printed = capfd.readouterr()
    assert f"warning: {newest} is not a complete checkpoint" in printed.err
    assert "it is kept as step_00000008.safetensors.damaged" in printed.err
    assert f"resuming {run_dir} at step 6" in printed.out
    assert [path.name for path in checkpoint.damaged(run_dir)] == ["step_00000008.safetensors.damaged"]
    assert equal(run_dir, undisturbed)


@pytest.mark.slow
def test_only_damaged_checkpoints_are_no_reason_to_begin_anew(phantoms: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trained(phantoms, run_dir)
    (run_dir / "result.json").unlink()
    for path in checkpoint.numbered(run_dir):
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(InputError, match=f"{run_dir} has no complete checkpoint, only damaged ones"):
            trained(phantoms, run_dir)
