# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""All procedural phantoms: inputs with their ground truth that need no download and belong to no patient."""

from __future__ import annotations

from monai_cert.data.chest_phantom import chest_phantom
from monai_cert.data.lesion_phantom import lesion_phantom
from monai_cert.data.polyp_phantom import polyp_phantom

__all__ = ["PHANTOM", "chest_phantom", "lesion_phantom", "polyp_phantom"]

# What stands for a phantom where otherwise the path of an image stands, and the entry of a bundle that makes its own.
PHANTOM = "phantom"
