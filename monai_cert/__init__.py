# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified segmentation for MONAI: what no perturbation below a radius can change, pixel by pixel."""

from __future__ import annotations

from importlib import metadata

from monai_cert.bounds import Bounds
from monai_cert.certificate import ABSTAIN, Certificate, adjusted_p_values, certify
from monai_cert.data.chest_xray import chest_xray_datalist
from monai_cert.data.files import LoadPicture, LoadPictured, list_images
from monai_cert.data.hypotheses import MaskFile, OutsideBorders
from monai_cert.data.masks import LoadClasses, LoadClassesd, LoadMask, LoadMaskd, RequireMaskFitsd
from monai_cert.data.phantoms import chest_phantom, lesion_phantom, polyp_phantom
from monai_cert.data.public_sets import public_datalist
from monai_cert.denoising.adapters import DiffusersNetwork, diffusers_denoiser, monai_denoiser
from monai_cert.denoising.denoiser import DiffusionDenoiser
from monai_cert.denoising.schedule import NoiseSchedule
from monai_cert.hierarchy import Hierarchy
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.inferers.denoise import DenoisedNetwork, DiffusionDenoiseInferer
from monai_cert.inferers.lipschitz import LipschitzCertificationInferer
from monai_cert.inferers.recording import MaskRecorder, MeasurementRecorder
from monai_cert.margins import flip_costs, pixel_radii
from monai_cert.measurements import Measurement, measurements_of
from monai_cert.metrics.abstention import (
    AbstentionRateMetric,
    CertifiedAccuracyMetric,
    abstention_rate,
    certified_accuracy,
)
from monai_cert.metrics.curves import area_under_curve, curve_over_radius
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
from monai_cert.metrics.information import CertifiedInformationGainMetric, certified_information_gain
from monai_cert.metrics.whole_mask import whole_mask_measurements
from monai_cert.metrics.worst_case import (
    CertifiedRobustPixelAccuracy,
    WorstCaseDice,
    WorstCaseFNR,
    WorstCaseIoU,
    certified_robust_pixel_accuracy,
    dice_under_attack,
    fnr_under_attack,
    fpr_under_attack,
    iou_under_attack,
    smallest_attack,
    stability_under_attack,
)
from monai_cert.networks.constants import LayerBound, LipschitzBound, lipschitz_bound
from monai_cert.networks.losses import TemperatureCrossEntropyLoss
from monai_cert.networks.segmenter import LipschitzSegmenter
from monai_cert.noise import GaussianNoise
from monai_cert.sequential import SequentialCertification
from monai_cert.statistics.binomial import JointTest, SplitTest, joint, min_samples, split, tau_max
from monai_cert.statistics.looks import equal_split, exact_boundaries
from monai_cert.statistics.multiplicity import bonferroni, generalized_holm, holm
from monai_cert.statistics.percentile import (
    MeasurementCertificate,
    ShareCertificate,
    certify_measurements,
    certify_shares,
)
from monai_cert.statistics.radius_map import RadiusMap, radius_map
from monai_cert.transforms.array import AddSmoothingNoise, CertificateMaps, DenoiseImage, RandNoiseAndDenoise
from monai_cert.transforms.dictionary import AddSmoothingNoised, CertificateMapsd, DenoiseImaged, RandNoiseAndDenoised
from monai_cert.transforms.resize import ReproducibleResize, ReproducibleResized

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
    "CertifiedInformationGainMetric",
    "CertifiedIoUMetric",
    "CertifiedRobustPixelAccuracy",
    "DenoiseImage",
    "DenoiseImaged",
    "DenoisedNetwork",
    "DiffusersNetwork",
    "DiffusionDenoiseInferer",
    "DiffusionDenoiser",
    "GaussianNoise",
    "Hierarchy",
    "JointTest",
    "LayerBound",
    "LipschitzBound",
    "LipschitzCertificationInferer",
    "LipschitzSegmenter",
    "LoadClasses",
    "LoadClassesd",
    "LoadMask",
    "LoadMaskd",
    "LoadPicture",
    "LoadPictured",
    "MaskFile",
    "MaskRecorder",
    "Measurement",
    "MeasurementCertificate",
    "MeasurementRecorder",
    "NoiseSchedule",
    "OutsideBorders",
    "RadiusMap",
    "RandNoiseAndDenoise",
    "RandNoiseAndDenoised",
    "ReproducibleResize",
    "ReproducibleResized",
    "RequireMaskFitsd",
    "SequentialCertification",
    "ShareCertificate",
    "SplitTest",
    "TemperatureCrossEntropyLoss",
    "WorstCaseDice",
    "WorstCaseDiceMetric",
    "WorstCaseFNR",
    "WorstCaseIoU",
    "WorstCaseIoUMetric",
    "abstention_rate",
    "adjusted_p_values",
    "area_under_curve",
    "bonferroni",
    "certified_accuracy",
    "certified_dice",
    "certified_information_gain",
    "certified_iou",
    "certified_robust_pixel_accuracy",
    "certify",
    "certify_measurements",
    "certify_shares",
    "chest_phantom",
    "chest_xray_datalist",
    "curve_over_radius",
    "dice_under_attack",
    "diffusers_denoiser",
    "equal_split",
    "exact_boundaries",
    "flip_costs",
    "fnr_under_attack",
    "fpr_under_attack",
    "generalized_holm",
    "holm",
    "iou_under_attack",
    "joint",
    "lesion_phantom",
    "lipschitz_bound",
    "list_images",
    "measurements_of",
    "min_samples",
    "monai_denoiser",
    "pixel_radii",
    "polyp_phantom",
    "public_datalist",
    "radius_map",
    "smallest_attack",
    "split",
    "stability_under_attack",
    "tau_max",
    "whole_mask_measurements",
    "worst_case_dice",
    "worst_case_iou",
]
