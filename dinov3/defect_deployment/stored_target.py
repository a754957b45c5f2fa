"""What a model was calibrated for, to calibrate its other forms for the same."""

from __future__ import annotations

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.targets import Target
from dinov3.models.defect_facts import ModelFacts


def target_for(facts: ModelFacts, asked: Target) -> Target:
    """The target that was asked for or, if none was, the checkpoint's own.

    Raises:
        DefectError: the checkpoint has one that its record does not tell exactly.
    """
    calibration = facts.calibration or {}
    told = calibration.get("target", str(Target()))
    if asked != Target() or told == str(Target()):
        return asked
    values = calibration.get("target_values")
    if values is None:
        raise DefectError(
            f"the checkpoint was calibrated for {told!r}, by a version that did not keep the exact values; give them "
            "again, such as --max_miss_rate 0.01"
        )
    return Target(**values)
