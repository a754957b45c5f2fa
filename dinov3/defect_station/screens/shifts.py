"""When the shift began."""

from __future__ import annotations

from datetime import datetime, timedelta

from dinov3.defect_errors import DefectError


def parse_shifts(text: str) -> tuple[int, ...]:
    """Hours, 0 to 23, at which shifts begin, of ``6,14,22``.

    Raises:
        DefectError: no such list.
    """
    try:
        hours = sorted({int(hour) for hour in text.split(",")})
    except ValueError:
        hours = []
    if not hours or not 0 <= hours[0] <= hours[-1] <= 23:
        raise DefectError(f"--shifts {text}: expected hours from 0 to 23 at which shifts begin, such as 6,14,22")
    return tuple(hours)


def shift_began(now: datetime, hours: tuple[int, ...]) -> datetime:
    """When the shift of ``now`` (with a time zone) began, by the clock of that zone."""
    begins = (
        datetime.combine(now.date() - timedelta(days), datetime.min.time().replace(hour=hour)).astimezone()
        for days in (0, 1)
        for hour in reversed(hours)
    )
    return next(begin for begin in begins if begin <= now)
