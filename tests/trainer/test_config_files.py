"""A run is configured by a TOML file on top of a recipe, or by the config.json of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import InputError
from trainer.config import Config, config_of, differences
from trainer.pretrain import parse
from trainer.recipes import RECIPES
from trainer.training.run import run_dir_of

SAVED = Path(__file__).resolve().parents[1] / "data" / "version_0.1" / "runs" / "stopped" / "config.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "my.toml") -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def configured(*arguments: str) -> Config:
    return parse(list(arguments)).config


def test_a_file_changes_its_base_and_flags_beat_it() -> None:
    write(
        'base = "embedded"\nseed = 3\n[optim]\nbase_lr = 1\n[data]\nclasses = ["Bag", "Coat"]\n'
        "[runtime]\nthreads = 1\n[schedule]\nsteps = 7\n"
    )
    recipe = RECIPES["embedded"]()
    config = configured("my.toml", "--schedule.steps", "5")
    assert config == replace(
        recipe,
        name="my",
        seed=3,
        optim=replace(recipe.optim, base_lr=1.0),
        data=replace(recipe.data, classes=("Bag", "Coat")),
        schedule=replace(recipe.schedule, steps=5),
        runtime=replace(recipe.runtime, threads=1),
    )
    assert parse(["my.toml"]).result_fields["departures"]["optim.base_lr"] == {"used": 1, "protocol": 0.4}


def test_a_file_is_on_top_of_another_beside_it() -> None:
    write('base = "sub/lower.toml"\nname = "x"\n[schedule]\nepochs = 2\n')
    write('base = "imagenet1k_r50x1"\n[data]\nimage_size = 112\n[model]\npretrained = "None"\n', "sub/lower.toml")
    config = configured("./my.toml")
    assert (config.name, config.schedule.epochs, config.data.image_size, config.data.resize) == ("x", 2, 112, 128)
    assert config.data.randaugment_ops == 2
    assert config.model.pretrained is None


def test_a_file_needs_no_base_if_it_names_sets() -> None:
    assert configured(write('[data]\nsets = ["a"]\n')).data.sets == ("a",)
    assert configured(write("seed = 1\n"), "--data.sets", "b").data.sets == ("b",)
    with pytest.raises(InputError, match=r"my\.toml names neither a base, .* nor data\.sets"):
        parse(["my.toml"])


def test_sets_without_a_recipe_are_told_of_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--data.sets", "a"]).config.name == "embedded"
    assert "are those of embedded, a demo; own has settings that fit your images" in capsys.readouterr().err
    parse([])
    parse(["embedded", "--data.sets", "a"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nbase_rl = 1", r"my\.toml: unknown key 'optim\.base_rl'; did you mean 'optim\.base_lr'"),
        ("[optimm]\nbase_lr = 1", r"my\.toml: unknown key 'optimm'; did you mean \[optim\]\?"),
        ("seeed = 1", r"unknown key 'seeed'; did you mean 'seed'\?"),
        ("base_lr = 1", r"unknown key 'base_lr'; did you mean 'base_lr' in \[optim\]"),
        ("[data]\nimage-size = 64", r"unknown key 'data\.image-size'; did you mean 'image_size' in \[data\]"),
        ("[data]\nimage_size = 64.5", r"my\.toml: data\.image_size is 64\.5; it must be a whole number"),
        ("[data]\nflip = 1", r"data\.flip is 1; it must be true or false"),
        ('[data]\nsets = "a"', r'data\.sets is "a"; it must be a list of texts'),
        ("[data]\nsets = [1]", r"data\.sets is \[1\]; it must be a list of texts"),
        ("[model]\nmean = [0.5]", r"model\.mean is \[0\.5\]; it must be a list of numbers"),
        ('seed = "1"', r'seed is "1"; it must be a whole number'),
        ("[optim]\nbase_lr = true", r"optim\.base_lr is true; it must be a number"),
        ('[schedule]\nkind = "cosin"', r"schedule\.kind is .cosin.; did you mean 'cosine'"),
        ("data = 1", r"data is 1; it must be a section, \[data\]"),
        ("[schedule]\nsteps = 1\nepochs = 1", "steps and schedule.epochs both say how long"),
        ('[runtime]\nstage = "a"\ncache_dir = "b"', "two keys for one thing"),
        ("[data]\nimage_size = 1", r"my\.toml: --data\.image-size is 1; the smallest is 32"),
        ("seed = 1\nseed = 2", r"my\.toml is not valid TOML: .*line 2"),
        ("seed =", r"my\.toml is not valid TOML: .*line 1"),
        ('base = "embeddedd"', "no such recipe; did you mean 'embedded'"),
        ('base = "sub/none.toml"', r"my\.toml: base is 'sub/none\.toml', and there is no file sub/none\.toml"),
        ("base = 1", "base is 1; it must be a recipe or a file"),
        ('base = "./my.toml"', r"base leads in a circle: my\.toml -> my\.toml"),
    ],
)
def test_a_wrong_file_is_refused_with_the_mend(text: str, message: str) -> None:
    if not text.startswith("base"):
        text = f'base = "embedded"\n{text}'.replace('base = "embedded"\nseed =', "seed =")
    with pytest.raises(InputError, match=message):
        parse([write(f"{text}\n")])


def test_files_that_cannot_be_read_are_refused() -> None:
    Path("my.toml").write_bytes(b'base = "embedded"\nname = "\xff"\n')
    with pytest.raises(InputError, match=r"my\.toml, line 2: not UTF-8"):
        parse(["my.toml"])
    with pytest.raises(InputError, match=r"there is no file none\.toml"):
        parse(["none.toml"])
    with pytest.raises(InputError, match=r"a\.json is not valid JSON: the key 'seed' is there twice"):
        parse([write('{"seed": 1, "seed": 2}', "a.json")])


def test_a_config_of_an_earlier_version_is_repeated_anew(capsys: pytest.CaptureFixture[str]) -> None:
    saved: dict[str, Any] = json.loads(SAVED.read_text(encoding="utf-8"))
    assert "stage" in saved["runtime"]
    for given in (write(json.dumps(saved), "runs/a/config.json"), "runs/a/"):
        command = parse([given])
        assert command.config == config_of(saved)
        assert run_dir_of(command.config, command.launch) == Path("runs/a-repeat")
        assert "note: repeats runs/a in runs/a-repeat; --out names another" in capsys.readouterr().err
    named = parse(["runs/a/config.json", "--out", "b", "--schedule.steps", "9"])
    assert (named.launch.out, named.config.schedule.steps) == (Path("b"), 9)


def test_a_run_goes_on_without_its_file() -> None:
    write('base = "imagenet1k_r50x1"\n[schedule]\nepochs = 2\n')
    words = ["my.toml", "--match-authors", "--optim.no-nesterov", "--data.image-size", "64"]
    before = configured(*words)
    write(json.dumps(before.to_dict() | {"data_fingerprint": "abc"}), "runs/my/config.json")
    Path("my.toml").unlink()
    resumed = parse(["runs/my/config.json", *words[1:], "--out", "runs/my"])
    assert differences(before.to_dict(), resumed.config.to_dict()) == []
    assert run_dir_of(resumed.config, resumed.launch) == Path("runs/my")
    assert resumed.result_fields["protocol"] == "authors"


def test_what_follows_a_flag_did_not_in_runs_of_earlier_versions(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embedded", "--data.image-size", "64", "--schedule.epochs", "2"]
    assert (configured(*words).data.resize, configured(*words).schedule.steps) == (72, None)
    with pytest.raises(InputError, match=r"--data\.resize is 60, below --data\.image-size 64"):
        parse([*words, "--data.resize", "60"])
    old = configured("embedded", "--data.image-size", "34", "--data.resize", "36").to_dict()
    write(json.dumps(old), "runs/embedded/config.json")
    assert configured("embedded", "--data.image-size", "34").data.resize == 36
    assert "begun by an earlier version" in capsys.readouterr().err
