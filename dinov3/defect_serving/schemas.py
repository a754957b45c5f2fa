"""The form of requests and answers, as the OpenAPI document tells them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorAnswer(BaseModel):
    """There is no verdict."""

    error: str
    request_id: str


class ModelBrief(BaseModel):
    """What ran."""

    name: str
    fingerprint: str = Field(description="SHA-256 of the model's file")
    engine: Literal["torch", "onnx", "openvino"]
    precision: str
    thresholds: dict[str, float | None]


class ModelAnswer(ModelBrief):
    """The model in use."""

    since: str
    checkpoint_fingerprint: str = Field(description="SHA-256 of the checkpoint that it was exported from")
    backbone: str
    classes: list[str]
    mask_classes: list[str]
    image_size: list[int] = Field(description="height and width that images are resized to")
    tile_size: int
    rules: bool
    target: str | None
    promise: str | None
    version: str
    available: list[str] = Field(description="files that one can change to")


class ModelChange(BaseModel):
    """The model to change to."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "best_accuracy.onnx"}})
    name: str = Field(description="a file in --model_dir", min_length=1, max_length=255)


class ImageResult(BaseModel):
    """One image, with the fields of `predictions.json`; one that failed has `image` and `error` alone."""

    model_config = ConfigDict(extra="allow")  # prob_<class>, sizes in millimetres
    image: str
    error: str = Field(description="empty, or why there is no verdict")
    verdict: Literal["accept", "review", "reject"] | None = Field(None, description="missing if there is an error")
    predicted_class: str | None = None
    defect_probability: float | None = None
    threshold: float | None = None
    review_threshold: float | None = None
    mask_area_fraction: float | None = None
    num_regions: int | None = None
    novelty: dict[str, Any] | None = None
    reason: str | None = None
    decided_by: list[dict[str, Any]] | None = None
    disagreement: bool | None = None
    milliseconds: float | None = None
    mask: str | None = Field(None, description="a data: address of a PNG file if asked for: 0, or the mask class")
    attention: str | None = Field(None, description="likewise, only if asked for; 255 where it is strongest")
    regions: list[dict[str, Any]] | None = None
    reasons: list[str] | None = Field(None, description="only if asked for: the reason in English and in Chinese")
    bounds: list[int] | None = Field(
        None, description="likewise: the mildest and strictest verdict at other thresholds, 0 accept to 2 reject"
    )


class PartResult(BaseModel):
    """What the images of one part come to: `accept` only if all of them are accepted."""

    part: str
    verdict: Literal["accept", "review", "reject"]
    images: int
    reject: int
    review: int
    accept: int
    error: int = Field(description="images without a verdict; they send the part to review")
    defect_probability: float | None = Field(description="the highest")
    image: str | None = Field(description="the one with the highest")


class StoredView(BaseModel):
    """An image of a part in the results database."""

    id: int
    time: str
    name: str
    camera: str | None
    verdict: Literal["accept", "review", "reject", "error"]
    defect_probability: float | None
    decision: Literal["accept", "reject"] | None = Field(description="a person's, in place of the verdict")


class StoredPart(PartResult):
    """All images of a part, over all requests."""

    views: list[StoredView] = Field(description="the latest thousand, oldest first")


class InspectAnswer(BaseModel):
    """A result for each image, in their order."""

    request_id: str
    time: str
    part_id: str | None
    camera: str | None
    trigger_id: str | None
    model: ModelBrief
    parts: list[PartResult] = Field(description="of the parts that are known, by part_id or from the images' names")
    results: list[ImageResult]


class DriftTest(BaseModel):
    """One of the tests for drift."""

    what: Literal["score", "novelty"] = Field(description="defect probabilities, or distances to good parts")
    log_capital: float = Field(description="natural logarithm; an alarm once it has reached the limit")
    limit: float
    highest: float
    alarm: bool
    since: str | None = Field(description="when the image came that raised the alarm")
    after: int | None = Field(description="its number since the test began")


class MovedMost(BaseModel):
    """An image that spoke for a change."""

    id: int | None = Field(description="its row in the results database")
    name: str
    what: Literal["score", "novelty"]


class DriftAnswer(BaseModel):
    """Whether what comes in is still like the reference."""

    reference: str
    model: str = Field(description="fingerprint of the model whose images are tested")
    in_use: bool = Field(description="whether that model inspects now; if not, nothing new is tested")
    started: str = Field(description="images from this time on")
    images: int = Field(description="tested so far; those of one part count once")
    reference_images: int
    false_alarm: float
    alarm: bool
    tests: list[DriftTest]
    moved_most: list[MovedMost]


class Health(BaseModel):
    """Whether the server runs."""

    status: Literal["ok", "not ready"]
    reason: str = ""


EXAMPLE_RESULT = {
    "image": "part-17.png",
    "verdict": "reject",
    "predicted_class": "defect",
    "defect_probability": 0.93,
    "prob_normal": 0.07,
    "prob_defect": 0.93,
    "threshold": 0.41,
    "review_threshold": 0.2,
    "mask_area_fraction": 0.004,
    "num_regions": 1,
    "novelty": None,
    "reason": "defect probability 0.93 >= 0.41",
    "decided_by": [{"kind": "probability", "probability": 0.93, "threshold": 0.41, "limit": "reject"}],
    "disagreement": False,
    "milliseconds": 21.4,
    "error": "",
    "mask": None,
    "regions": [
        {
            "class_name": "defect",
            "box": [110, 42, 18, 9],
            "polygon": [[110, 42], [127, 42], [127, 50], [110, 50]],
            "area": 160,
            "length": 19.8,
            "width": 9.0,
            "score": 0.81,
            "peak": 0.97,
        }
    ],
}
EXAMPLE_ANSWER = {
    "request_id": "1f8a3c5e7b9d4f60a2c4e6081b3d5f70",
    "time": "2026-11-30T09:20:00.123Z",
    "part_id": "17",
    "camera": "left",
    "trigger_id": "000123",
    "model": {
        "name": "best_accuracy.onnx",
        "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "engine": "onnx",
        "precision": "fp32",
        "thresholds": {"classification": 0.41, "review": 0.2, "mask": 0.5},
    },
    "parts": [
        {
            "part": "17",
            "verdict": "reject",
            "images": 2,
            "reject": 1,
            "review": 0,
            "accept": 0,
            "error": 1,
            "defect_probability": 0.93,
            "image": "part-17.png",
        }
    ],
    "results": [
        EXAMPLE_RESULT,
        {"image": "part-18.png", "error": "part-18.png: broken or truncated (image file is truncated)"},
    ],
}
