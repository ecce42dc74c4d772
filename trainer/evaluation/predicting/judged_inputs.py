"""What a run says of images to predict, some batches at a time; only what is not kept yet is decoded and computed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice

from data_pipelines.common.cpus import num_usable_cpus
from data_pipelines.common.encoded_image import EncodedImage
from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import hash_bytes
from data_pipelines.common.printable import printable
from data_pipelines.common.progress import Progress
from data_pipelines.image_files.dicom import why_no_image
from data_pipelines.preparation.file_states import UNREADABLE, State, state_of
from trainer.evaluation.predicting.inputs import Input, Inputs, colours_remark
from trainer.evaluation.predicting.kept_outputs import Judged, KeptOutputs
from trainer.evaluation.predicting.prediction_table import as_written
from trainer.evaluation.predicting.seen_images import SEEN, SeenImages
from trainer.evaluation.predictor import Predictor

_BATCHES_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class JudgedInput:
    """An input, and what it was found to be. state: of its file, None where it could not be read. image: None where
    there is none, or it was not looked at. is_kept: by an earlier command. is_new: to be kept."""

    item: Input
    judged: Judged
    state: State | None = None
    image: EncodedImage | None = None
    is_kept: bool = False
    is_new: bool = False


class InputJudge:
    """Judges inputs by a run. seen: the images that it was trained on, None where these are not at hand."""

    def __init__(self, predictor: Predictor, seen: SeenImages | None, kept: KeptOutputs, threads: int | None) -> None:
        self._predictor, self._seen, self._kept = predictor, seen, kept
        self._threads = threads or num_usable_cpus()

    def judged(self, first: Input, inputs: Inputs, batch_size: int) -> Iterator[list[JudgedInput]]:
        """The inputs, `first` before the others, some batches at a time; those without an image are counted."""
        rest, most = chain([first], inputs.each), batch_size * _BATCHES_AT_ONCE
        with (
            ThreadPoolExecutor(self._threads, thread_name_prefix="verify") as pool,
            Progress("predict", unit="image") as bar,
        ):
            while chunk := list(islice(rest, most)):
                found = self._predicted(list(pool.map(self._look, chunk)))
                kinds = ["" if each.item.was_named else each.judged.left_out for each in found]
                inputs.left_out.update(filter(None, kinds))
                yield [each for each, kind in zip(found, kinds, strict=True) if not kind]
                bar.update(len(chunk))

    def with_images(self, predicted: Sequence[JudgedInput]) -> list[tuple[Input, EncodedImage]]:
        """Inputs that have an image, with it as the network gets it."""

        def image_of(found: JudgedInput) -> EncodedImage:
            return found.image or read_again(self._predictor, found.item)

        with ThreadPoolExecutor(self._threads, thread_name_prefix="verify") as pool:
            return list(zip([found.item for found in predicted], pool.map(image_of, predicted), strict=True))

    def _look(self, item: Input) -> JudgedInput:
        # Before the bytes are read: a change in between shows the next time.
        state = None if item.place is None else state_of(item.place)
        if state is not None and (known := self._kept.of_state(state)) is not None:
            return JudgedInput(item, known, state, is_kept=True, is_new=not self._kept.has(as_written(item.name)))
        try:
            encoded = item.read()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            return JudgedInput(item, Judged(UNREADABLE, error=reason or str(error) or type(error).__name__))
        content = hash_bytes(encoded)
        if (known := self._kept.of_content(content)) is not None:
            return JudgedInput(item, known, state, is_kept=True, is_new=True)
        image = self._predictor.verified(encoded)
        if isinstance(image, str):  # not kept: a decoder may be there next time
            left_out = why_no_image(encoded) if self._predictor.xray_size else ""
            return JudgedInput(item, Judged(content, error=image, left_out=left_out))
        is_seen = self._seen is not None and self._seen.has(image)
        remarks = (colours_remark(encoded, self._predictor.channels), image.remark, SEEN * is_seen)
        return JudgedInput(item, Judged(content, remark="; ".join(filter(None, remarks))), state, image, is_new=True)

    def _predicted(self, looked: Sequence[JudgedInput]) -> list[JudgedInput]:
        """With what the network says of those that have an image; what is new is kept."""
        images = [each.image for each in looked if each.image is not None]
        logits, novelty = self._predictor.judge_images(images)
        novelties = [None] * len(images) if novelty is None else novelty.tolist()
        outputs = zip(logits.tolist(), novelties, strict=True)
        found = [each if each.image is None else _with_outputs(each, *next(outputs)) for each in looked]
        self._kept.add(
            (as_written(each.item.name), each.state, each.judged)
            for each in found
            if each.is_new and each.state is not None
        )
        return found


def read_again(predictor: Predictor, item: Input, at_own_size: bool = False) -> EncodedImage:
    """An image that could be read before. Raises InputError where it cannot be any more."""
    try:
        image = predictor.verified(item.read(), at_own_size=at_own_size)
    except (OSError, ValueError) as error:
        image = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(image, str):
        raise InputError(
            f"{printable(item.name)} was read, but cannot be read again ({image}): it is gone or has changed "
            "meanwhile; the same command goes on with the others"
        )
    return image


def _with_outputs(found: JudgedInput, logits: Sequence[float], novelty: Sequence[float] | None) -> JudgedInput:
    return replace(found, judged=replace(found.judged, logits=logits, novelty=novelty))
