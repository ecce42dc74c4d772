"""What bitscale submit refuses or warns of, before anything is submitted."""

import re
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from login_node import Login

from launchers import submit
from launchers.profiles import SITES, Site, UsageError, load_site, site_names


def test_twice_at_a_time_is_refused(login: Login) -> None:
    login.program("squeue", "echo 12 RUNNING")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, "job 12 RUNNING has the name a_run already" in error) == (2, True)
    assert login.ran("sbatch") == []


def test_inside_a_job_only_warns(login: Login) -> None:
    login.program("sbatch", f"echo ${{SLURM_JOB_ID:-none}} >{login.folder}/sees; echo 6")
    login.monkeypatch.setenv("SLURM_JOB_ID", "5")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, "warning: this shell is in job 5" in error) == (0, True)
    assert (login.folder / "sees").read_text() == "none\n"  # sbatch would take it for its own


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "submit_training", interrupt)
    monkeypatch.setattr(sys, "argv", ["submit.py", "pretrain", "embedded", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        submit.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_refusal_of_slurm(login: Login) -> None:
    login.program("sbatch", "echo 'invalid account' >&2; exit 1")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, error.splitlines()[-1]) == (2, "error: sbatch refuses: invalid account")


@pytest.mark.parametrize(("site", "has_gpus"), [("generic", True), ("localhost", False)])
def test_gpus_that_slurm_does_not_have(site: str, has_gpus: bool, login: Login) -> None:
    says = "sbatch: error: Invalid generic resource (gres) specification"
    login.program("sbatch", f"echo '{says}' >&2; exit 1")
    code, _, error = login.submit("pretrain", "embedded", "--site", site)
    remedy = (
        f"; the job asks for 4 GPUs on a node, as gpus_per_node of the site profile says: set it to .* {SITES}/generic"
    )
    assert code == 2
    assert bool(re.search(f"sbatch refuses: {re.escape(says)}{remedy}", error)) == has_gpus
    assert says in error


def test_no_controller_answers(login: Login) -> None:
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: pytest.fail("the trainer was asked"))
    login.program("squeue", "echo 'squeue: error: resolve_ctls_from_dns_srv: res_nsearch error' >&2; exit 1")
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost")
    assert (code, "error: no SLURM controller answers; use --dry-run here" in error) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "embedded", "--site", "juwels-boster"], "did you mean 'juwels-booster'?"),
        (["pretrain", "embedded", "--node", "3"], "did you mean '--nodes'?"),
        (["pretrian", "embedded"], "'pretrian' is neither pretrain nor a plan file (.json); of "),
        (["transfer"], "of fine-tunings, bitscale sweep --plan plan.json writes one"),
        (["pretrain"], "name the recipe"),
        (["pretrain", "embedded", "--time", "8:00"], "--time '8:00' is not a duration; write HH:MM:SS"),
        (["pretrain", "embedded", "--time", "2-00:00:00"], "above the site's 24:00:00; take less, and --chain"),
        (["pretrain", "embedded", "--time", "00:05:00"], "leaves nothing beside the 300 s kept for saving"),
        (["pretrain", "embedded", "--nodes", "0"], "--nodes is 0"),
        (["pretrain", "embedded", "--nodes", "2000"], "4096 is too small for 8000 ranks; raise it to 8000"),
        (["pretrain", "embedded", "--chain", "0"], "--chain is 0"),
        (["pretrain", "embedded", "--partition", "gpu"], "unknown argument --partition; use --sbatch partition=gpu"),
        (["pretrain", "embedded", "--account=me"], "use --sbatch account=me"),
        (["pretrain", "embedded", "-p", "gpu"], "use --sbatch partition=gpu"),
        (["pretrain", "embedded", "--gpus", "8"], "gpus_per_node of the site file"),
        (["pretrain", "embedded", "--sbatch", "partitionn=gpu"], "no such option; did you mean 'partition'?"),
        (["pretrain", "embedded", "--sbatch", "qos"], "--sbatch qos is not of the form KEY=VALUE"),
        (["pretrain", "embedded", "--sbatch", "qos=high --uid=0"], "characters that do not belong"),
        (["pretrain", "embedded", "--sbatch", "Q$S=high"], "is not the name of a directive"),
        (["pretrain", "embedded", "--sbatch", "time=99:00:00"], "use --time"),
        (["pretrain", "embedded", "--job-name", "a b"], "is not a name for a job"),
        (["pretrain", "embedded", "--", "--no-resume"], "--no-resume would start anew in every job"),
        (["pretrain", "embedded", "--sbatch", "qos=high\n#SBATCH --uid=0"], "control characters"),
        (["pretrain", "embedded", "--", "x\ntouch pwned"], "control characters"),
        (["absent.json"], "bitscale sweep ... --plan FILE writes one"),
        (["absent.json", "--nodes", "2"], "a plan file says all about its tasks"),
    ],
)  # fmt: skip
def test_refuses(login: Login, arguments: list[str], message: str) -> None:
    code, _, error = login.submit(*arguments)
    assert code == 2
    assert message in error
    assert login.ran("sbatch") == []


@pytest.mark.parametrize("asks", ["gres=gpu:1", "gres=nvme:2,gpu:a100:1", "gpus-per-node=1", "gpus=h100:1"])
def test_other_gpus_than_ranks_are_refused(login: Login, asks: str) -> None:
    login.monkeypatch.setattr("launchers.submit.ask_plan", lambda *_: pytest.fail("the trainer was asked"))
    code, _, error = login.submit("pretrain", "embedded", "--sbatch", asks, "--dry-run")
    assert code == 2
    assert f"--sbatch {asks} asks for 1 GPU on a node, but 4 ranks would start there" in error
    assert f"set it to 1 in a copy of {SITES}/generic.toml" in error


def test_the_remedy_for_other_gpus_works(login: Login) -> None:
    profile = (SITES / "generic.toml").read_text().replace("gpus_per_node = 4", "gpus_per_node = 1")
    (login.folder / "one.toml").write_text(profile)
    text = login.script("pretrain", "embedded", "--site", "one.toml", "--sbatch", "gres=gpu:a100:1", "--dry-run")
    assert "PET_NPROC_PER_NODE=1" in text
    assert text.count("--gres=") == 1


def test_odd_folder_is_refused_in_directives_else_quoted(login: Login) -> None:
    folder = login.folder / "it's $(touch pwned) here"
    folder.mkdir()
    login.monkeypatch.chdir(folder)
    code, _, error = login.submit("pretrain", "embedded", "--site", "localhost", "--dry-run")
    assert (code, "characters that do not belong into one" in error) == (2, True)
    text = login.script(
        "pretrain", "embedded", "--site", "localhost", "--dry-run", "--logs", str(login.folder / "logs")
    )
    login.program("srun", f"pwd >{login.folder}/where")
    login.run_script(text).communicate()
    assert (login.folder / "where").read_text().strip() == str(folder)
    assert not list(login.folder.rglob("pwned"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gpus_per_nod = 4", "unknown key 'gpus_per_nod'; did you mean 'gpus_per_node'?"),
        ('gpus_per_node = "4"', "gpus_per_node is '4', not of type int"),
        ("gpus_per_node = -1", "gpus_per_node must be 0 or more"),
        ('sbatch = { "x y" = "1" }', "is not the name of a directive"),
        ('environment = { "A;B" = "1" }', "environment: 'A;B' is not the name of a variable"),
        ('time_limit = "1 day"', "time_limit '1 day' is not a duration"),
        ("modules = [1]", "modules is [1]"),
        ("partition = gpu", ': partition = gpu; text needs quotes: partition = "gpu"'),
        ("= 3", "mine.toml: "),
    ],
)
def test_profile_refuses(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    lines = [
        line for line in (SITES / "generic.toml").read_text().splitlines() if line.split("=")[0] != change.split("=")[0]
    ]
    path.write_text("\n".join([*lines, change]))
    with pytest.raises(UsageError) as refused:
        load_site(str(path))
    assert message in str(refused.value)


@pytest.mark.parametrize("name", site_names())
def test_every_profile_that_ships_can_be_read(name: str) -> None:
    assert load_site(name).cores_per_node > 0


def test_the_generic_profile_explains_every_key() -> None:
    lines = (SITES / "generic.toml").read_text().splitlines()
    assert {line.split(" =")[0] for line in lines if " = " in line and line[0] != "#"} == set(Site.__annotations__)
