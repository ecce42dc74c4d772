"""Every remedy that a command prints works with that command: the flags in it are its own."""

import ast

import pytest
from commands import dataclasses_of_commands, flags_of, modules, parsers, reached_by, sources
from printed import FLAG, asked_for, printed

from data_pipelines.common import advice

TUNING = {"transfer", "sweep", "worker"}
TRAINING = {"pretrain"} | TUNING
OWN = {"prepare csv", "prepare image-folder"}
WITH_VIEWS = {name for name in parsers() if "--views" in flags_of(name)}
PHOTOGRAPHS = {name for name in parsers() if "--shorter-side" in flags_of(name)}
PREPARE = {name for name in sources() if name.startswith("prepare")}
# Modules whose messages fewer commands print than import them; by the beginning of their names.
PRINTED_BY = {
    # An export takes thresholds and cards from modules that import these.
    "trainer.evaluation.chosen_thresholds": {"evaluate", "predict"},
    "trainer.evaluation.predicting.explain_predictions": {"predict"},
    "trainer.evaluation.assessment.groups": {"evaluate"},
    "trainer.profiling.recorder": TRAINING,  # nothing else sets RuntimeConfig.profile
    "trainer.engines.elastic": TRAINING,  # nothing else sets RuntimeConfig.elastic
    "trainer.engines.membership": TRAINING,
    "trainer.optim.lr_schedules": {"pretrain"},  # a warm-up; the others have none
    "trainer.evaluation.assessment.evaluate_settings": {"evaluate"},  # an export takes their names alone
    "trainer.evaluation.assessment.evaluated_set": {"evaluate"},
    "trainer.evaluation.predicting.inputs": {"predict"},
    "trainer.models.export_settings": {"export"},  # a benchmark exports what it draws
    "trainer.models.graph": {"export"},
    "trainer.evaluation.predicting.predict_settings": {"predict"},
    "trainer.recipes": {"pretrain"},  # of which others take named ones alone
    "trainer.sweep": {"sweep"},
    **{f"trainer.finetuning.{name}": TUNING for name in ("finetune", "options", "settings")},  # others take names alone
    "data_pipelines.image_files.bit_depth": PREPARE | {"predict"},  # of files, not of prepared pictures
    "data_pipelines.common.xray_storage": PREPARE | {"predict"},
    "data_pipelines.preparation.part_writer": PREPARE,
    "data_pipelines.preparation.quarantine": PREPARE,
    "data_pipelines.preparation.shard_records": PREPARE,
    "data_pipelines.image_files.shrink": PREPARE,
    "benchmarks.lib.kernels.group_norm": {"group_norm"},
    "benchmarks.lib.loading": {"loading", "loading_large"},
    "benchmarks.lib.loading.comparison": {"loading"},
    "benchmarks.lib.scaling": {"scaling"},
}
# Draws what it prepares, so that nothing of it can be refused; and the modules that would.
DRAWS = "union_heads"
OF_WHAT_IS_BROUGHT = ("data_pipelines.preparation.", "data_pipelines.common.earlier_output")
# Of these modules, messages that name a flag are printed only where these commands, or sets of `prepare`, lead to them.
ONLY = {
    ("trainer.training.run", "--preflight-only"): {"pretrain"},
    ("trainer.finetuning.options", "--seed"): {"transfer"},  # a sweep counts its own
    ("trainer.training.job", "--schedule.allow-no-decay"): {"pretrain"},
    ("trainer.config.config", "--mode"): TUNING,
    ("trainer.reporting.best_on_val", "--best-on"): {"report"},  # a benchmark collects without it
    ("trainer.reporting.trials", "--best-on"): {"report"},
    ("data_pipelines.shards.heads", "--head"): {"evaluate", "export", "predict"},
    ("trainer.evaluation.calibration.conformal", "--coverage"): {"evaluate", "predict"},
    ("trainer.evaluation.predictor", "--bits"): {"predict"},
    ("trainer.evaluation.predictor", "--precision"): {"evaluate", "predict"},
    ("trainer.evaluation.predictor", "--xray-size"): {"predict"},
    ("data_pipelines.datasets.embedded", "--root"): {"prepare fashion_mnist"},
    ("data_pipelines.datasets.user_images", "--label-column"): {"prepare csv"},
    ("data_pipelines.datasets.user_images", "--label-columns"): {"prepare csv"},
    ("data_pipelines.datasets.oxford", "--split"): {"prepare flowers102"},
    ("data_pipelines.datasets.patient_splits", "--patient-column"): {"prepare csv"},  # "of the csv reader"
    ("data_pipelines.datasets.patient_splits", "--split-column"): {"prepare csv"},  # likewise
    ("data_pipelines.datasets.stored_columns", "--fact-columns"): {"prepare csv"},
    ("data_pipelines.datasets.xray_tables", "--views"): WITH_VIEWS,
    ("data_pipelines.image_files.pillow_images", "--xray-size"): OWN,
    ("data_pipelines.prepare", "--root"): {"prepare fashion_mnist"},
    ("data_pipelines.prepare", "--views"): WITH_VIEWS,
    ("data_pipelines.prepare", "--laterals"): OWN,
    ("data_pipelines.prepare", "--xray-size"): OWN,
    ("data_pipelines.image_files.shrink", "--shorter-side"): PHOTOGRAPHS,
    ("data_pipelines.image_files.shrink", "--xray-size"): OWN,
    ("data_pipelines.datasets.xray_views", "--views"): WITH_VIEWS,
    ("benchmarks.lib.network.predict", "--what-if"): {"scaling"},
    ("benchmarks.lib.device", "--device"): {"group_norm", "on_gpu", "optimizer", "steps", "throughput"},
}
# Said only where `has_flag` says that the command has it.
ASKED_BEFORE = {
    ("trainer.training.unreadable_images", "--data.on-bad-shard"),
    ("trainer.training.run", "--no-resume"),
    ("trainer.training.run", "--allow-config-change"),
}
# Flags of another program, which the message names or hands them on to; None: a part of a flag, or of a shell's line.
OF_ANOTHER = {
    ("trainer.engines.horovod", "--nccl"): None,  # launchers/install_horovod.sh
    ("trainer.evaluation.assessment.evaluated_set", "--size"): "prepare",
    ("trainer.evaluation.assessment.evaluated_set", "--xray-size"): "prepare",
    ("trainer.finetuning.finetune", "--size"): "prepare",
    ("trainer.finetuning.finetune", "--test-fraction"): "prepare",
    ("trainer.splits", "--test-fraction"): "prepare",
    ("trainer.evaluation.assessment.groups", "--fact-columns"): "prepare csv",
    ("trainer.evaluation.assessment.groups", "--study-date"): "prepare csv",
    ("trainer.evaluation.pages.page", "--patient-column"): "prepare csv",
    ("trainer.finetuning.finetune", "--xray-size"): "prepare",
    ("trainer.finetuning.paper_protocol", "--out"): "prepare",
    ("trainer.finetuning.paper_protocol", "--root"): "prepare",
    ("data_pipelines.datasets.webdataset", "--sort"): None,  # tar
    ("data_pipelines.image_files.image_verification", "--xray-size"): "prepare",
    ("data_pipelines.datasets.catalog", "--root"): "prepare",
    ("benchmarks.lib.loading.large_photos", "--shorter-side"): "prepare",
    ("benchmarks.protocol_effect", "--model.head-init"): "transfer",
    ("benchmarks.protocol_effect", "--match-authors"): "transfer",
    ("benchmarks.lib.throughput.memory", "--checkpoint-stages"): "pretrain",
    ("launchers.agent", "--endpoint"): None,  # launchers/torchrun.sh
    ("launchers.elastic", "--endpoint"): None,  # launchers/torchrun.sh
    ("launchers.elastic", "--min-ranks"): "pretrain",
    ("launchers.sbatch", "--out"): "pretrain",
    ("launchers.script", "--done"): None,  # launchers/job.py
    ("launchers.script", "--job"): None,
    ("launchers.script", "--since"): None,
    ("launchers.submit", "--global-batch-size"): "pretrain",
    ("launchers.submit", "--min-ranks"): "pretrain",
    ("launchers.submit", "--no-resume"): "pretrain",
    ("launchers.submit", "--out"): "pretrain",
} | {
    ("launchers.script", flag): "pretrain"
    for flag in (
        *("--log-every", "--allow-config-change", "--out", "--save-every"),
        *("--schedule.allow-no-decay", "--schedule.steps"),
    )
}
# Flags of other programs in descriptions; elsewhere only torchrun's.
SAID_IN_HELP = {"loading_large": {"--data.scaled-decode", "--shorter-side"}, "protocol_effect": {"--match-authors"}}
_FOUND = {module: printed(tree) for module, tree in modules().items()}


def reaching(module: str) -> frozenset[str]:
    """The commands that can print what is in a module."""
    narrower = [commands for start, commands in PRINTED_BY.items() if module.startswith(start)]
    drawing = {DRAWS} if module.startswith(OF_WHAT_IS_BROUGHT) else set()
    return reached_by(module).intersection(*narrower) - drawing


def wrong_flags(module: str) -> list[str]:
    """The flags that a command can name without having them."""
    found = []
    for text in _FOUND[module]:
        for flag in sorted(FLAG.findall(text.text) if text.is_translated else text.own_flags()):
            key = (module, flag)
            if key in ASKED_BEFORE or (key in OF_ANOTHER and not text.is_translated):
                continue
            commands = ONLY.get(key, {"pretrain"} if text.is_translated else reaching(module))
            lacking = sorted(name for name in commands if flag not in flags_of(name))
            found += [f"line {text.line}: {flag} in {', '.join(lacking)}"] * bool(lacking)
    return found


@pytest.mark.parametrize("module", [name for name, texts in _FOUND.items() if texts])
def test_flags_in_messages_are_those_of_the_command(module: str) -> None:
    assert wrong_flags(module) == []


def test_flags_of_other_programs_are_theirs() -> None:
    wrong = [key for key, program in OF_ANOTHER.items() if program and key[1] not in flags_of(program)]
    assert wrong == []


def test_the_tables_name_what_is_printed() -> None:
    """A row that nothing needs any more would hide the next mistake."""
    named = {(module, flag) for module, texts in _FOUND.items() for text in texts for flag in FLAG.findall(text.text)}
    assert {*ONLY, *ASKED_BEFORE, *OF_ANOTHER} - named == set()


def test_flags_that_are_asked_for_are_those_of_pretrain() -> None:
    asked = {flag for tree in modules().values() for flag in asked_for(tree)}
    assert len(asked) > 20
    assert asked - flags_of("pretrain") == set()


@pytest.mark.parametrize("command", sorted(dataclasses_of_commands()))
def test_a_command_has_the_flag_that_it_is_given(command: str) -> None:
    advice.belong_to(dataclasses_of_commands()[command])
    try:
        called = [advice.flag(flag) for flag in flags_of("pretrain") if flag != "-h"]
    finally:
        advice.belong_to(None)
    assert {name for name in called if name.startswith("--")} - flags_of(command) == set()


@pytest.mark.parametrize("command", sorted(parsers()))
def test_flags_in_the_help_of_a_command_are_its_own(command: str) -> None:
    description = ast.get_docstring(modules()[sources()[command]]) or ""
    flags = FLAG.findall(parsers()[command].format_help() + description)
    assert set(flags) - flags_of(command) - SAID_IN_HELP.get(command, {"--nproc-per-node"}) == set()
