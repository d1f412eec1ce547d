# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Telling a user what went wrong, in one sentence."""

from __future__ import annotations

__all__ = ["USER_ERRORS", "explain"]

# What files, settings, disks and networks of a user can raise, MONAI's and torch's RuntimeError included.
USER_ERRORS = (ValueError, OSError, RuntimeError, TypeError)


def explain(error: BaseException, source: str | None = None) -> str:
    """First line of an error; MONAI wraps what transforms and configurations raise into a RuntimeError: seen through.

    Args:
        error: the error.
        source: an input that the sentence must name.

    Example:
        >>> explain(ValueError("too dark"), "film.png")
        'film.png: too dark'
    """
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename and str(error.filename) not in text:
        text = f"{error.filename}: {text}"
    line = text.splitlines()[0] if text else type(error).__name__
    return line if source is None or source in line else f"{source}: {line}"
