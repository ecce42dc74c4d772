"""The command line of a fine-tuning: read as a `Transfer`, and written from one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from data_pipelines.common.messages import rank_0_logger
from data_pipelines.common.old_flags import negated, translate
from trainer.config import flag_of
from trainer.finetuning.options import FULL, Options, Transfer
from trainer.finetuning.settings import RANDOM_CROPS, Settings, given_settings, words_of
from trainer.models.sources import SCRATCH, require_weights

# The flags that short help lists.
OFTEN = (
    *("--shots", "--seed", "--out", "--mode", "--match-authors", "--model.name", "--data.image-size", "--data.classes"),
    *("--schedule.steps", "--optim.base-lr", "--global-batch-size", "--device", "--allow-config-change"),
)
# Settings that were flags without their section in earlier versions.
_WITHOUT_SECTION = (
    *("data.image_size", "data.resize", "data.classes", "data.one_label", "data.train_on", "data.shots_at_most"),
    *("data.balance", "data.mixup_alpha", "data.mixup_weight", "data.border", "data.translation"),
    *("model.keep_head", "model.head_init", "model.filter_init", "model.mean", "model.std"),
    *("optim.base_lr", "optim.nesterov", "optim.agc_head", "schedule.steps"),
)
# Flags of earlier versions, which plan files, queued jobs and notes may still give.
_OLD_FLAGS = {
    "--resume-anyway": "--allow-config-change",
    "--stage": "--cache-dir",
    "--batch-size": "--global-batch-size",
    "--model": "--model.name",
    **{flag_of(name.rpartition(".")[2]): flag_of(name) for name in _WITHOUT_SECTION},
}
_OLD_ASPECT = "--keep-aspect"
# A fine-tuning has one target and one source.
_CALLED_HERE = {"--data.sets": "--target", "--data.shots": "--shots", "--model.pretrained": "--pretrained"}
# Of these, "None" left the choice to the rule and the protocol, as leaving them out does.
_OLD_CHOICES = {*_OLD_FLAGS, _OLD_ASPECT, "--precision"} - {"--resume-anyway", "--classes", "--stage"}


@dataclass(frozen=True)
class TransferCommand(Transfer):
    """Fine-tuning of a pre-trained model on a target, all layers, with a new head."""

    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)

    def transfer(self, arguments: Sequence[str]) -> Transfer:
        """What these arguments, which it was parsed from, say. Raises InputError for what does not go together."""
        given = given_settings(self.settings, arguments)
        return Transfer(self.pretrained, self.target, self.shots, self.seed, replace(self.options, given=given))


def require_sources(*sources: str) -> None:
    """Raise InputError, naming the nearest, for weights to start from of which nothing is there."""
    for source in sources:
        if source != SCRATCH:
            require_weights(source)


def todays(arguments: Sequence[str]) -> list[str]:
    """A command line of any version with the flags of this one. Raises InputError for an old and a new flag with
    different values."""
    return translate(translate(_without_old_values(arguments), _OLD_FLAGS), _CALLED_HERE, "is here")


def read_transfer(arguments: Sequence[str]) -> Transfer:
    """A command line that `flags_of` wrote, in this version or an earlier one."""
    words = todays(arguments)
    return tyro.cli(TransferCommand, args=words).transfer(words)


def flags_of(transfer: Transfer) -> list[str]:
    """The command line of a transfer, without what is so by default."""
    options, default = transfer.options, Options()
    words = ["--pretrained", transfer.pretrained, "--target", transfer.target]
    words += [] if transfer.shots == FULL else ["--shots", transfer.shots]
    words += ["--seed", str(transfer.seed)] if transfer.seed else []
    words += ["--match-authors"] if options.match_authors else []
    words += [] if options.out == default.out else ["--out", str(options.out)]
    words += ["--overlap-excluded"] if options.overlap_excluded else []
    words += ["--allow-config-change"] if options.allow_config_change else []
    return words + words_of(options.given)


def _without_old_values(arguments: Sequence[str]) -> list[str]:
    """The words, with those values of old flags changed that the new ones do not have: True, False and None."""
    words: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in _OLD_CHOICES:
            words.append(word)
            continue
        if not equals and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        words += _in_new_words(name, value)
    return words


def _in_new_words(name: str, value: str) -> list[str]:
    if value == "None":
        return []
    if name == _OLD_ASPECT:
        view = RANDOM_CROPS[value == "True"]
        rank_0_logger.info(f"note: {_OLD_ASPECT} {value} is now --data.train-view {view}")
        return ["--data.train-view", view]
    if value in ("True", "False"):
        return [name if value == "True" else negated(name)]
    return [name, value] if value else [name]
