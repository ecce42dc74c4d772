"""The model card of an exported graph: what goes in, what comes out, what was measured, and the run's evaluations."""

from typing import Any

from data_pipelines.common.advice import quoted
from data_pipelines.common.message_parts import number
from data_pipelines.common.printable import printable
from trainer.document.blocks import Block, BulletList, Entry, Heading, Paragraph, Table, Title
from trainer.document.markdown import as_markdown, markdown_text
from trainer.document.text import Bold, Code, Text
from trainer.evaluation.pages.model_card import CARD_OF_PATIENTS, model_items, sections_of
from trainer.evaluation.pages.page import NOT_A_DEVICE
from trainer.evaluation.preprocessing import words_of
from trainer.evaluation.runs import Run


def export_card(run: Run, metadata: dict[str, Any], report: dict[str, Any], former: str) -> str:
    """The card as Markdown. metadata: of the graph. report: what was measured of it. former: the model card of the run,
    whose evaluations are taken over; "" where they are not of these weights."""
    sections = _evaluations(run, former)
    head = as_markdown(
        _head(run, metadata, report, is_confidential=CARD_OF_PATIENTS in former, is_judged=bool(sections))
    )
    return "\n".join(part.rstrip() + "\n" for part in (head, *sections))


def _evaluations(run: Run, former: str) -> list[str]:
    """Those of the run's head, where it has several."""
    ending = markdown_text(printable(f", head {' '.join(run.head.name.split())}")) if run.head else ""
    return [text for heading, text in sections_of(former).items() if heading.endswith(ending)]


def _head(
    run: Run, metadata: dict[str, Any], report: dict[str, Any], is_confidential: bool, is_judged: bool
) -> list[Block]:
    side, channels, num_outputs = metadata["image_size"], metadata["channels"], len(metadata["classes"])
    is_of_patients = bool(run.metadata.get("xray_size")) or run.result.get("patients", "none") != "none"
    card: list[Block] = [
        Title(f"Model card: {run.name}", 1),
        *([Paragraph((Bold(CARD_OF_PATIENTS),))] if is_confidential else []),
        *([Paragraph(NOT_A_DEVICE)] if is_of_patients else []),
        Title("Model"),
        BulletList(tuple(model_items(run))),
        Title("Input and output"),
        BulletList(
            (
                (
                    "Input ",
                    Code("images"),
                    f": uint8 [N, {side}, {side}, {channels}], any N, rows of pixels from the top",
                ),
                ("Output ", Code("logits"), f": float32 [N, {num_outputs}], in the order of the table below"),
                "Normalisation and weight standardisation are part of the graph.",
                ("All of this is in the metadata of the model, and in ", Code("config.json"), "."),
            )
        ),
        Title("From a picture to the input"),
        BulletList(tuple(words_of(step) for step in metadata["preprocessing"])),
        Title("From logits to a decision"),
        Paragraph(_decision(metadata)),
        _thresholds(metadata),
        Title("What was measured at export"),
        *_measured(report),
    ]
    if not is_judged:
        command = f"bitscale evaluate {quoted(run.folder)}" + (f" --head {quoted(run.head.name)}" if run.head else "")
        card += [Title("Evaluation"), Paragraph(("None is known of it: ", Code(command), ", then export it again."))]
    return card


def _decision(metadata: dict[str, Any]) -> str:
    temperature = f"{metadata['temperature']:.4g}"
    if why := metadata["temperature_unfitted"]:
        temperature += f" (not fitted, because {why})"
    if metadata["task"] == "single_label":
        return (
            f"Probabilities are the softmax of logits / T with T = {temperature}. Predicted is the class of the "
            "largest logit. The score of a class is its logit less the log-sum-exp of the others; a class is above its "
            "threshold where its score is at least that."
        )
    return (
        f"Probabilities are the sigmoid of logits / T with T = {temperature}. A finding is above its threshold where "
        "its logit is at least that."
    )


def _thresholds(metadata: dict[str, Any]) -> Table:
    rows = tuple(
        (name, (Entry(words=f"{value:.6g}"), Entry(words=metadata["unfitted"].get(name, "fitted on val"))))
        for name, value in metadata["thresholds"].items()
    )
    columns = (Heading("", "threshold"), Heading("", "how it was found"))
    stub = "class" if metadata["task"] == "single_label" else "finding"
    return Table("thresholds", "Thresholds in log odds, before the temperature.", stub, columns, rows)


def speed_text(value: float) -> str:
    """Images per second with two digits or more."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _measured(report: dict[str, Any]) -> list[Block]:
    packages = ", ".join(f"{name} {version}" for name, version in report["packages"].items())
    programs = [name for name in report["images_per_second"][0] if name != "batch_size"]
    rows = tuple(
        (f"{row['batch_size']}", tuple(Entry(words=speed_text(row[name])) for name in programs))
        for row in report["images_per_second"]
    )
    difference: Text = (
        f"Logits differ from the model's in float64 by at most {report['largest_difference']:.1g} of the largest, for "
        f"generated images; above {report['tolerance']:g} nothing would have been exported."
    )
    machine = f"{report['cpu']}, {number(report['threads'], 'thread')}"
    caption = f"Images per second in fp32 on {machine} ({packages}), whatever else ran there."
    columns = tuple(Heading("", name) for name in programs)
    return [Paragraph(difference), Table("speed", caption, "batch size", columns, rows)]
