"""Results of an evaluation as plain JSON types."""

import math
from dataclasses import asdict
from typing import Any

from trainer.document.blocks import SIGNIFICANT
from trainer.evaluation.assessment.assess import Finding, Subgroup
from trainer.evaluation.assessment.groups import Group, Groups
from trainer.evaluation.assessment.set_coverage import Covered, SetCoverage
from trainer.evaluation.calibration.operating import OperatingPoints
from trainer.evaluation.pages.page import Evaluation, warnings
from trainer.evaluation.runs import over_seeds
from trainer.evaluation.statistics.intervals import CONFIDENCE, Estimate
from trainer.evaluation.statistics.paired import Difference
from trainer.evaluation.statistics.predictions import Predictions


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything on the page in full precision; what has no value is null."""
    assessment, tested = evaluation.assessment, evaluation.tested
    why_none = assessment.points.why_temperature_unfitted()
    seeds = over_seeds(evaluation.run) if tested.own and tested.split == "test" else []
    return {
        "run": str(evaluation.run.folder),
        "weights": evaluation.run.metadata.get("weights"),
        **({"head": evaluation.run.head.name} if evaluation.run.head else {}),
        "data": tested.name,
        "split": tested.split,
        "set_digests": tested.digests,
        "provenance": tested.provenance,
        "warnings": warnings(evaluation),
        "commit": evaluation.commit,
        "images": len(assessment.predictions),
        "patients": assessment.patients or None,
        "confidence": CONFIDENCE,
        "resamples": assessment.resamples,
        "mean_auc": _estimate(assessment.mean_auc),
        "mean_average_precision": _estimate(assessment.mean_ap),
        "accuracy": _estimate(assessment.accuracy),
        "most_common_class": _most_common(assessment.predictions),
        "operating_points": _operating_points(assessment.points),
        "calibration_error": {
            "as_trained": _number(assessment.raw_reliability.error),
            "with_temperature": _number(assessment.reliability.error),
            **({"temperature_not_fitted": why_none} if why_none else {}),
        },
        "prediction_sets": _prediction_sets(evaluation.sets),
        "unlike_training_images": tested.unlike,
        "findings": {finding.name: _finding(finding) for finding in assessment.findings},
        "subgroups": [_subgroup(part, assessment.predictions.classes) for part in assessment.subgroups],
        "by": None if evaluation.groups is None else _groups(evaluation.groups),
        "against": evaluation.other or None,
        "differences": [_difference(found) for found in evaluation.differences],
        **({"explanation": evaluation.looked.to_json()} if evaluation.looked else {}),
        "seeds": {str(found.seed): found.value for found in seeds},
    }


def _most_common(predictions: Predictions) -> dict[str, Any] | None:
    """What always answering one class gives; None for findings."""
    if predictions.task == "multi_label":
        return None
    name, share = predictions.most_common()
    return {"class": name, "accuracy": share}


def _operating_points(points: OperatingPoints) -> dict[str, Any]:
    """As the checkpoint has them, less what prediction sets are made by; its thresholds are called what they are."""
    found = {name: value for name, value in points.to_dict().items() if name not in ("sets", "no_sets")}
    return {"temperature": found.pop("temperature"), "threshold_logits": found.pop("thresholds")} | found


def _prediction_sets(sets: SetCoverage) -> dict[str, Any]:
    return {
        "promised_coverage": sets.rule.coverage,
        "likely_coverage": sets.likely,
        "patients_of_val": sets.rule.units,
        "not_available": sets.rule.missing,
        "by_true_label": {row.name: _covered(row) for row in sets.rows},
    }


def _covered(row: Covered) -> dict[str, Any]:
    return {
        "images": row.images,
        "patients": row.patients,
        "coverage": _estimate(row.coverage),
        "mean_size": _number(row.mean_size),
        "empty": _number(row.empty),
        "single": _number(row.single),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
        **({"not_available": estimate.reason} if estimate.reason else {}),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "images": finding.images,
        "positives": finding.positives,
        "auc": _estimate(finding.auc),
        "average_precision": _estimate(finding.ap),
        "threshold": _number(finding.threshold),
        "threshold_before_temperature": _number(finding.raw_threshold),
        "threshold_rule": finding.rule,
        **({"threshold_not_chosen": finding.why_unfitted} if finding.why_unfitted else {}),
        **finding.counts,
        **{name: _estimate(share) for name, share in finding.shares.items()},
        "calibration_error": {"as_trained": _number(finding.raw_ece), "with_temperature": _number(finding.ece)},
    }


def _subgroup(part: Subgroup, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "fact": part.fact,
        "value": part.value,
        "images": part.images,
        "patients": part.patients or None,
        "mean_auc": _estimate(part.mean_auc),
        "accuracy": _estimate(part.accuracy),
        "auc": {name: _estimate(auc) for name, auc in zip(classes, part.auc, strict=True)},
    }


def _groups(groups: Groups) -> dict[str, Any]:
    return {
        "by": groups.by,
        "fact": groups.fact,
        "groups": [_group(group) for group in groups.groups],
        "comparisons": [asdict(found) | {"value": _number(found.value), "others": _number(found.others)}
                        for found in groups.comparisons],
        "significant": SIGNIFICANT,
    }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    part = group.assessment
    return {
        "value": group.name,
        "images": len(part.predictions),
        "patients": part.patients or None,
        "mean_auc": _estimate(part.mean_auc),
        "accuracy": _estimate(part.accuracy),
        "findings": {
            found.finding.name: _finding(found.finding)
            | {
                "prevalence": _estimate(found.prevalence),
                "mean_probability": _number(found.predicted),
                "label_less_probability": _estimate(found.excess),
                "calibration_slope": _number(found.slope),
            }
            for found in group.findings
        },
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {"metric": found.name, "one": _number(found.one), "other": _number(found.other)} | _estimate(
        found.difference
    )
