# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Finding a certified-segmentation bundle by name, and loading what its configurations describe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.networks.checkpoints import misfit, read_weights

__all__ = ["DEFAULT_BUNDLE", "CertifiedBundle", "find_bundle", "load_bundle"]

DEFAULT_BUNDLE = "chest_xray_lung_certified_segmentation"

# Settings of the command line and where configs/certify.json keeps them.
_SETTINGS = {
    "sigma": "displayable_configs::sigma",
    "tau": "displayable_configs::tau",
    "alpha": "displayable_configs::alpha",
    "n": "displayable_configs::n",
}

# What the configurations must have.
_ENTRIES = ("network", "weights", "preprocessing", "inferer", "class_names")


@dataclass(frozen=True)
class CertifiedBundle:
    """What the command line needs of a bundle.

    Args:
        name: its name.
        root: its folder.
        preprocessing: from ``{"image": path}`` to ``{"image": (C, *spatial)}``.
        network: the segmenter with its weights, in evaluation mode.
        inferer: the certification inferer of ``configs/certify.json``, or that of a Lipschitz network, where a
            configuration that was laid over it puts one in its place.
        bounds: pixel values of the network's input, from the metadata.
        class_names: a name a class.
        parser: the configurations, overlays included.
        configuration_sha256: digest of the configurations as they stand in the files, laid over one another, before
            settings and other replacements, and of the JSON files beside the weights.
        files: the configurations, in the order in which they are laid over one another.
    """

    name: str
    root: Path
    preprocessing: Any
    network: nn.Module
    inferer: CertificationInferer
    bounds: Bounds
    class_names: tuple[str, ...]
    parser: ConfigParser
    configuration_sha256: str
    files: tuple[Path, ...]

    def require(self, *entries: str) -> None:
        """Look before work begins whether the configurations have what it will need.

        Args:
            entries: such as ``labeled_preprocessing`` or ``displayable_configs#tau``.

        Raises:
            ValueError: if they lack one; the message names the files.
        """
        for entry in entries:
            if entry not in self.parser:
                raise ValueError(_lacking(self.files, entry))


class _Configurations(ConfigParser):
    """Configurations that know their files, and name them where an entry is missing."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        super().__init__()

    def get_parsed_content(self, id: str = "", **kwargs: Any) -> Any:
        """As MONAI does it.

        Raises:
            ValueError: if there is no such entry, or another one refers to what is not there.
        """
        if id not in self:
            raise ValueError(_lacking(self.files, id))
        try:
            return super().get_parsed_content(id, **kwargs)
        except ValueError as error:
            if "is not defined in the config content" not in str(error):
                raise
            raise ValueError(f"{_and(self.files)}, entry {id!r}: {error}") from error


def find_bundle(name_or_dir: str | Path) -> Path:
    """Find a bundle: a folder, or a name looked up in ``MONAI_CERT_BUNDLES``, in ``bundles/`` of a checkout, and in the
    installed package, in this order.

    Args:
        name_or_dir: a bundle's folder or its name.

    Returns:
        The folder, which has ``configs/metadata.json``.

    Raises:
        FileNotFoundError: if there is none; the message lists the bundles that there are.
    """
    folder = Path(name_or_dir)
    if _is_bundle(folder):
        return folder.resolve()
    if Path(name_or_dir).name == str(name_or_dir):
        for place in _places():
            if _is_bundle(place / name_or_dir):
                return (place / name_or_dir).resolve()
    known = sorted({f.name for place in _places() if place.is_dir() for f in place.iterdir() if _is_bundle(f)})
    raise FileNotFoundError(
        f"there is no bundle {str(name_or_dir)!r}; known are {', '.join(known) or 'none'}, or give a bundle's folder"
    )


def load_bundle(
    name_or_dir: str | Path,
    *,
    configs: Sequence[str | Path] = (),
    device: str | None = None,
    settings: Mapping[str, float] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> CertifiedBundle:
    """Load a bundle for certification: ``configs/inference.json`` overlaid with ``configs/certify.json`` and others.

    A bundle's configurations may contain Python expressions, which MONAI runs: load only bundles that you trust.

    Args:
        name_or_dir: see `find_bundle`.
        configs: further configurations, laid over these two in their order: names of files in the bundle's ``configs``,
            or paths. The chest bundle's ``organs.json`` makes it segment right lung, left lung and heart.
        device: a torch device; what the bundle's configuration says if None.
        settings: sigma, tau, alpha, n, in place of the bundle's.
        overrides: other top-level entries of the configurations to replace.

    Raises:
        FileNotFoundError: if there is no such bundle or configuration, or a file of the bundle is missing.
        ValueError: if a configuration cannot be read, the weights do not fit the network, or a setting is out of range.
    """
    root = find_bundle(name_or_dir)
    files = [root / "configs" / name for name in ("inference.json", "certify.json")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"the bundle {root} has no configs/{file.name}")
    bounds = _bounds(root / "configs" / "metadata.json")
    files += [_overlay(root, config) for config in configs]
    parser = _Configurations(files)
    parser.read_meta(root / "configs" / "metadata.json")
    parser.read_config(_merged(files))
    configuration = _digest(parser.get(), root)
    parser["bundle_root"] = str(root)
    if device is not None:
        parser["device"] = f"$torch.device({device!r})"
    if settings and "displayable_configs" not in parser:
        raise ValueError(_lacking(files, "displayable_configs"))
    for name, value in (settings or {}).items():
        parser[_SETTINGS[name]] = value
    for name, value in (overrides or {}).items():
        parser[name] = value
    parser.parse()
    network = parser.get_parsed_content("network")
    _load_weights(network, Path(parser.get_parsed_content("weights")), files[2:])
    return CertifiedBundle(
        name=root.name,
        root=root,
        preprocessing=parser.get_parsed_content("preprocessing"),
        network=network.eval(),
        inferer=parser.get_parsed_content("inferer"),
        bounds=bounds,
        class_names=tuple(parser.get_parsed_content("class_names")),
        parser=parser,
        configuration_sha256=configuration,
        files=tuple(files),
    )


def _bounds(metadata: Path) -> Bounds:
    """Pixel values of the network's input, as the metadata states them."""
    try:
        return Bounds(*json.loads(metadata.read_text())["network_data_format"]["inputs"]["image"]["value_range"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{metadata} does not describe inputs.image.value_range") from error


def _overlay(root: Path, config: str | Path) -> Path:
    """The file of a configuration that was asked for, by name or path."""
    for file in (root / "configs" / config, Path(config)):
        if file.is_file():
            return file
    known = sorted(file.name for file in (root / "configs").glob("*.json"))
    raise FileNotFoundError(
        f"there is no configuration {str(config)!r}; the bundle {root.name} has {', '.join(known)}, or give a path"
    )


def _merged(files: Sequence[Path]) -> dict[str, Any]:
    """The configurations, each laid over those before it."""
    merged: dict[str, Any] = {}
    for count, file in enumerate(files, start=1):
        try:
            merged = ConfigParser.load_config_files(files[:count])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{file} replaces a part that no configuration before it has: {error.args[0]}") from error
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{file} is no JSON file of named entries; a configuration must be one") from error
    for name in _ENTRIES:
        if name not in merged:
            raise ValueError(_lacking(files, name))
    return merged


def _digest(configuration: Mapping[str, Any], root: Path) -> str:
    """SHA-256 of a configuration and of what tells how the networks in ``models`` are built and used."""
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for file in sorted((root / "models").rglob("*.json")):
        digest.update(f"{file.relative_to(root).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def _load_weights(network: nn.Module, file: Path, overlays: Sequence[Path]) -> None:
    if not file.is_file():
        raise FileNotFoundError(
            f"the bundle's weights {file} are missing; train them with the bundle's recipe, or install the bundle again"
        )
    state = read_weights(file)
    try:
        network.load_state_dict(state.get("model", state))
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = misfit(error) if isinstance(error, RuntimeError) else "they are no dictionary of tensors"
        names = " and ".join(overlay.name for overlay in overlays)
        doubt = f"; the configurations {names} may not go together" if len(overlays) > 1 else ""
        raise ValueError(f"the weights {file} do not fit the bundle's network: {reason}{doubt}") from error


def _lacking(files: Sequence[Path], entry: str) -> str:
    return f"{_and(files)} have no entry {entry!r}, which a bundle needs"


def _and(files: Sequence[Path]) -> str:
    return " and ".join(map(str, files))


def _places() -> Iterator[Path]:
    yield from (Path(place) for place in os.environ.get("MONAI_CERT_BUNDLES", "").split(os.pathsep) if place)
    package = Path(str(resources.files("monai_cert")))
    checkout = package.parent / "bundles"
    if (package.parent / "setup.cfg").is_file():
        yield checkout
    yield package / "bundles"


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()
