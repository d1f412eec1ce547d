# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified segmentation for MONAI: what no perturbation below a radius can change, pixel by pixel."""

from __future__ import annotations

from importlib import metadata

from monai_cert.bounds import Bounds
from monai_cert.certificate import ABSTAIN, Certificate, certify
from monai_cert.data.chest_xray import chest_xray_datalist
from monai_cert.data.files import LoadMask, LoadMaskd, LoadPicture, LoadPictured, list_images
from monai_cert.data.phantoms import chest_phantom
from monai_cert.denoising.adapters import DiffusersNetwork, diffusers_denoiser, monai_denoiser
from monai_cert.denoising.denoiser import DiffusionDenoiser
from monai_cert.denoising.schedule import NoiseSchedule
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.inferers.denoise import DenoisedNetwork, DiffusionDenoiseInferer
from monai_cert.metrics.abstention import (
    AbstentionRateMetric,
    CertifiedAccuracyMetric,
    abstention_rate,
    certified_accuracy,
)
from monai_cert.metrics.dice import (
    CertifiedDiceMetric,
    CertifiedIoUMetric,
    WorstCaseDiceMetric,
    WorstCaseIoUMetric,
    certified_dice,
    certified_iou,
    worst_case_dice,
    worst_case_iou,
)
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import JointTest, SplitTest, joint, min_samples, split, tau_max
from monai_cert.statistics.multiplicity import bonferroni, holm
from monai_cert.transforms.array import AddSmoothingNoise, CertificateMaps, DenoiseImage, RandNoiseAndDenoise
from monai_cert.transforms.dictionary import AddSmoothingNoised, CertificateMapsd, DenoiseImaged, RandNoiseAndDenoised

__version__ = metadata.version("monai_cert")

__all__ = [
    "ABSTAIN",
    "AbstentionRateMetric",
    "AddSmoothingNoise",
    "AddSmoothingNoised",
    "Bounds",
    "Certificate",
    "CertificateMaps",
    "CertificateMapsd",
    "CertificationInferer",
    "CertifiedAccuracyMetric",
    "CertifiedDiceMetric",
    "CertifiedIoUMetric",
    "DenoiseImage",
    "DenoiseImaged",
    "DenoisedNetwork",
    "DiffusersNetwork",
    "DiffusionDenoiseInferer",
    "DiffusionDenoiser",
    "GaussianNoise",
    "JointTest",
    "LoadMask",
    "LoadMaskd",
    "LoadPicture",
    "LoadPictured",
    "NoiseSchedule",
    "RandNoiseAndDenoise",
    "RandNoiseAndDenoised",
    "SplitTest",
    "WorstCaseDiceMetric",
    "WorstCaseIoUMetric",
    "abstention_rate",
    "bonferroni",
    "certified_accuracy",
    "certified_dice",
    "certified_iou",
    "certify",
    "chest_phantom",
    "chest_xray_datalist",
    "diffusers_denoiser",
    "holm",
    "joint",
    "list_images",
    "min_samples",
    "monai_denoiser",
    "split",
    "tau_max",
    "worst_case_dice",
    "worst_case_iou",
]
