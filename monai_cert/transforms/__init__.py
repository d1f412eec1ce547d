# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""MONAI transforms."""

from __future__ import annotations

from monai_cert.transforms.array import AddSmoothingNoise, CertificateMaps, DenoiseImage
from monai_cert.transforms.dictionary import AddSmoothingNoised, CertificateMapsd, DenoiseImaged

__all__ = [
    "AddSmoothingNoise",
    "AddSmoothingNoised",
    "CertificateMaps",
    "CertificateMapsd",
    "DenoiseImage",
    "DenoiseImaged",
]
