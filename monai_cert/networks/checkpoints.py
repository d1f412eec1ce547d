# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Reading weights from a file, and telling why they do not fit a network."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch

__all__ = ["misfit", "read_weights"]


def read_weights(file: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors alone: no code of the file is run.

    Raises:
        OSError: if there is no such file, or it may not be read.
        ValueError: if it is damaged, or no checkpoint; the message names the file.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, RuntimeError, EOFError) as error:
        # Of a file that was cut short torch seeks a place before its beginning: "Invalid argument".
        raise ValueError(f"the weights {file} are damaged or cut short; fetch them again") from error
    except Exception as error:
        # On bytes that are no checkpoint the unpickler raises whatever comes up.
        raise ValueError(f"{file} is no checkpoint of weights") from error
    if not isinstance(state, dict):
        raise ValueError(f"{file} is no checkpoint of a network")
    return state


def misfit(error: RuntimeError) -> str:
    """What ``load_state_dict`` says is wrong, in one line; its first line only names the network."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(" ".join(lines[1:2] or lines[:1]), 200, placeholder=" ...")
