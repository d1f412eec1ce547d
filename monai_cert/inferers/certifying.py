# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What all inferers have in common whose prediction is a certificate, by whatever means it is proved."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from monai_cert.certificate import Certificate

__all__ = ["CertifyingInferer"]


class _Voted(Protocol):
    """What was found out about one image, before anything is decided: (classes, *spatial) votes, and more."""

    @property
    def votes(self) -> torch.Tensor: ...


S = TypeVar("S", bound=_Voted)


class CertifyingInferer(Inferer, Generic[S]):
    """A MONAI inferer that asks a network about each image (`sample`) and decides what that proves (`decide`)."""

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Certify a batch.

        Args:
            inputs: (B, C, *spatial) images within the bounds, tensor or MetaTensor.
            network: the network, in evaluation mode.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            (B, 2, *spatial) float32 of the type of the inputs, metadata kept: channel 0 the certified class (ABSTAIN is
            -1), channel 1 the pixel's certified l2 radius (0 where it abstains), rounded toward zero. With a hierarchy
            (B, 3, *spatial): channel 2 the finest certified node.

        Raises:
            ValueError: see `sample`.
        """
        certificates = self.certify(inputs, network, *args, **kwargs)
        maps = np.stack([_maps(certificate) for certificate in certificates])
        out: torch.Tensor = convert_to_dst_type(torch.from_numpy(maps), inputs, dtype=torch.float32)[0]
        if isinstance(out, MetaTensor):
            out.meta["certificate"] = [certificate.to_json() for certificate in certificates]
        return out

    def certify(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> list[Certificate]:
        """Certify a batch; one whole claim an image. Arguments and errors as in `__call__`."""
        return [self.decide(sample) for sample in self.sample(inputs, network, *args, **kwargs)]

    def votes(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, classes, *spatial) counts of the tested draws. Arguments and errors as in `__call__`."""
        return torch.stack([sample.votes for sample in self.sample(inputs, network, *args, **kwargs)])

    @abstractmethod
    def sample(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> list[S]:
        """Ask the network about every image of a batch without deciding yet. Arguments as in `__call__`."""

    @abstractmethod
    def decide(self, sample: S) -> Certificate:
        """Certify on what `sample` found about one image."""


def _maps(certificate: Certificate) -> npt.NDArray[np.float32]:
    """(2 or 3, *spatial): class, radius, and with a hierarchy the node."""
    maps = [certificate.classes.astype(np.float32), certificate.radius_map]
    return np.stack(maps if certificate.nodes is None else [*maps, certificate.nodes.astype(np.float32)])
