# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Attacks on certificates: the ball is never left, a flip is called only when proved, and the command reports both."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from guarantees.oracles import Levels
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial
from skimage import io

from monai_cert import attack
from monai_cert.attack import AttackSettings, Victim, find_delta, judge, project
from monai_cert.attack_files import attack_certificate
from monai_cert.bundle import DEFAULT_BUNDLE, load_bundle
from monai_cert.certificate import ABSTAIN, certify
from monai_cert.cli import main
from monai_cert.data.chest_xray import chest_xray_datalist
from monai_cert.inferers.voting import draw_votes
from monai_cert.noise import GaussianNoise, draw_seeds
from monai_cert.visualize import attack_figure, certificate_figure
from tiny import SIDE, N, make_tiny_bundle

NOISE = GaussianNoise(0.25)
IMAGE = torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(0))
CLASSES = (IMAGE[0] > 0.5).numpy().astype(np.int16)


def size(delta: torch.Tensor) -> float:
    return float(delta.double().norm())


@given(
    direction=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30),
    scale=st.sampled_from([0.0, 1e-38, 1e-6, 1.0, 1e6, 1e38]),
    radius=st.sampled_from([1e-6, 0.1686, 1.0, 1e4]),
)
def test_projection_gives_the_nearest_point_of_the_ball(direction: list[float], scale: float, radius: float) -> None:
    delta = torch.tensor(direction, dtype=torch.float32) * scale
    inside = project(delta, radius)
    assert size(inside) <= radius
    if size(delta) < radius * (1 - 1e-6):
        assert torch.equal(inside, delta)
    else:
        expected = delta.double() * (radius / size(delta))
        torch.testing.assert_close(inside.double(), expected, rtol=1e-6, atol=1e-6 * radius)


def largest_change(radius: float, scale: float) -> float:
    """The farthest from the image that an attack takes the network, whose gradients have this scale, or leaves it."""
    seen = [torch.zeros(())]

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append((x.detach() - IMAGE).flatten(1).double().norm(dim=1).max())
        return torch.sin(40 * x) * scale

    delta = find_delta(Victim(network), IMAGE, CLASSES, radius, AttackSettings(steps=12))
    return max(float(torch.stack(seen).max()), size(delta))


SCALES = pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1.0, 1e30])


@SCALES
@pytest.mark.parametrize("radius", [0.01, 0.1686, 50.0])
def test_no_step_leaves_the_ball_whatever_the_gradient(radius: float, scale: float) -> None:
    assert largest_change(radius, scale) <= radius * (1 + 1e-5)  # rounding of image + change in float32
    assert largest_change(radius, scale) >= (0.9 * radius if scale >= 1e-20 else 0)


def test_an_attack_without_projection_fails_that_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack, "project", lambda delta, radius: delta)
    assert largest_change(0.1686, 1.0) > 0.2


@pytest.mark.parametrize("draws", [1, 8])
def test_chunks_of_draws_add_up_to_the_same_attack(draws: int) -> None:
    found = [
        find_delta(
            Victim(torch.nn.Sequential(torch.nn.Tanh(), Levels(0.4)), NOISE),
            IMAGE,
            CLASSES,
            0.3,
            AttackSettings(steps=2, draws=draws, batch_size=size),
        )
        for size in (1, 3, 8)
    ]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_one_channel_is_attacked_like_its_two_channel_twin() -> None:
    def two_channels(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.ones_like(x), x + 0.5], dim=1)

    settings = AttackSettings(steps=5)
    one, two = (find_delta(Victim(f, NOISE), IMAGE, CLASSES, 0.5, settings) for f in (Levels(0.5), two_channels))
    torch.testing.assert_close(one, two)


def test_abstaining_pixels_are_not_attacked() -> None:
    classes = np.where(np.arange(5) < 2, CLASSES, ABSTAIN)
    delta = find_delta(Victim(Levels(0.5), NOISE), IMAGE, classes, 1.0, AttackSettings(steps=5))
    assert (delta[..., 2:] == 0).all()
    assert (delta[..., :2] != 0).all()


def test_the_image_is_not_clipped() -> None:
    """The certificate speaks of every change, also of one to values blacker than black."""
    black = torch.zeros(1, 2, 2)
    delta = find_delta(Victim(lambda x: -x - 0.1), black, np.zeros((2, 2), np.int16), 0.5, AttackSettings(steps=3))
    assert (black + delta < -0.2).all()


def test_a_network_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        find_delta(Victim(Levels(0.3, 0.6), NOISE), IMAGE, CLASSES, 0.1, AttackSettings())
    with pytest.raises(ValueError, match="not finite"):
        find_delta(Victim(lambda x: x.sqrt() * math.inf), IMAGE, CLASSES, 0.1, AttackSettings())


def outcomes(n: int, classes: int) -> np.ndarray:
    """All votes of n draws, (classes, outcomes)."""
    grid = itertools.product(range(n + 1), repeat=classes - 1)
    return np.array([[*g, n - sum(g)] for g in grid if sum(g) <= n]).T


def worst_false_flip(
    judged: Callable[[torch.Tensor, np.ndarray, float], attack.Judgement], n: int, held: list[list[float]]
) -> float:
    """max of P(class 0 is called flipped) / (alpha / pixels) over alpha, and class probabilities that it leads."""
    votes = outcomes(n, len(held[0]))
    worst = 0.0
    for alpha in np.geomspace(1e-3, 0.999, 40):
        flipped = judged(torch.from_numpy(votes), np.zeros(votes.shape[1], np.int16), alpha).flipped
        for p in held:
            chance = multinomial.pmf(votes.T, n, p)[flipped].sum()
            worst = max(worst, float(chance / (alpha / votes.shape[1])))
    return worst


TIES = {
    2: [[0.5, 0.5], [0.6, 0.4], [0.9, 0.1]],
    3: [[1 / 3, 1 / 3, 1 / 3], [0.4, 0.4, 0.2], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3]],
}


@pytest.mark.parametrize(("classes", "n"), [(2, 30), (3, 24)])
def test_false_flips_are_as_rare_as_alpha(classes: int, n: int) -> None:
    """All outcomes enumerated, at the ties, where the test has least room."""
    assert 0.2 < worst_false_flip(judge, n, TIES[classes]) <= 1 + 1e-9


def test_a_judge_that_forgets_the_number_of_pixels_or_counts_majorities_fails_that_check() -> None:
    def single(votes: torch.Tensor, classes: np.ndarray, alpha: float) -> attack.Judgement:
        return judge(votes, classes, min(1.0, alpha * classes.size))

    def majority(votes: torch.Tensor, classes: np.ndarray, alpha: float) -> attack.Judgement:
        judgement = judge(votes, classes, alpha)
        return judgement._replace(flipped=judgement.outvoted)

    for mutant in (single, majority):
        assert worst_false_flip(mutant, 30, TIES[2]) > 1


def test_a_true_flip_is_proved_and_an_abstention_never_flips() -> None:
    votes = torch.tensor([[5, 48, 5, 95], [90, 50, 90, 5], [5, 2, 5, 0]])
    judgement = judge(votes, np.array([0, 0, ABSTAIN, 0]), 0.001)
    np.testing.assert_array_equal(judgement.flipped, [True, False, False, False])
    np.testing.assert_array_equal(judgement.outvoted, [True, True, False, False])
    np.testing.assert_array_equal(judgement.majority, [1, 1, 1, 0])


def test_what_cannot_be_attacked_is_refused() -> None:
    votes = np.stack([np.full((6, 5), 50), np.full((6, 5), 50)])
    nothing = certify(votes, noise=NOISE)
    smoothed, plain = Victim(Levels(), NOISE), Victim(Levels())
    with pytest.raises(ValueError, match="no pixel is certified"):
        attack_certificate(IMAGE, nothing, smoothed, plain)
    for radius in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="radius of the attack must be positive"):
            attack_certificate(IMAGE, nothing, smoothed, plain, radius=radius)
    for factors in ([], [1.0, 0.0], [math.nan]):
        with pytest.raises(ValueError, match="factors must be positive"):
            attack_certificate(IMAGE, nothing, smoothed, plain, factors=factors)
    for name in ("steps", "draws", "n", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            AttackSettings(**{name: 0})
    with pytest.raises(ValueError, match="alpha must lie in"):
        AttackSettings(alpha=1.0)


@pytest.mark.parametrize("shape", [(1, 24, 20), (2, 24, 20), (3, 24, 20), (4, 24, 20), (1, 4, 24, 20)])
def test_the_picture_shows_every_count(shape: tuple[int, ...]) -> None:
    spatial = shape[1:]
    certificate = certify(np.stack([np.full(spatial, 100), np.zeros(spatial, int)]), noise=NOISE)
    delta = np.zeros(shape, np.float32)
    delta[..., 3, 3] = 0.5
    marks = [np.zeros(spatial, bool) for _ in range(3)]
    for count, mask in enumerate(marks, start=1):
        mask[..., 5, 2 : 2 + count] = True
    figure = attack_figure(
        np.full(shape, 0.5, np.float32),
        delta,
        certificate,
        plain=(certificate.classes, marks[0]),
        smoothed=(certificate.classes, marks[1]),
        flipped=marks[2],
        title="square",
        caption="what it shows",
    )
    titles = [axes.get_title() for axes in figure.axes]
    for words, mask in zip(("flipped", "outvoted", "proved flipped"), marks, strict=True):
        assert any(f"{mask.sum()} pixel" in title and title.endswith(words) for title in titles)
    assert certificate_figure(np.zeros(shape, np.float32), certificate, title="as well").get_figwidth() == 15.4


def attacked(tiny: Path, output: Path, *arguments: object) -> int:
    options = ("--bundle", tiny, "--output", output, "--n", N, "--steps", 3, "--draws", 3, "--seed", 3, "--json")
    return main(["attack", *map(str, arguments), *map(str, options)])


def test_attack_writes_a_picture_and_a_report(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attacked(tiny, tmp_path / "out", picture, "--factors", 2, 1) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["picture_attack.json", "picture_attack.png"]
    assert json.loads((tmp_path / "out" / "picture_attack.json").read_text()) == record
    assert io.imread(record["outputs"]["picture"]).shape[2] in (3, 4)
    assert (record["format"], record["status"], record["error"]) == (1, "ok", None)
    settings = record["settings"]
    assert (settings["n"], settings["steps"], settings["draws"], settings["seed"]) == (N, 3, 3, 3)
    claim, one, two = record["certificate"], *record["attacks"]
    assert 0 < claim["certified_pixels"] == claim["certified_fraction"] * SIDE**2
    assert record["radius"] == claim["radius"]
    assert ([one["factor"], two["factor"]], [one["inside"], two["inside"]]) == ([1, 2], [True, False])
    for row in (one, two):
        assert row["radius"] == row["factor"] * record["radius"]
        assert 0 < row["norm"] <= row["radius"]
        assert 0 < row["plain_norm"] <= row["radius"]
        assert 0 <= row["flipped"] <= row["outvoted"] <= claim["certified_pixels"]
        assert 0 <= row["plain_flipped"] <= claim["certified_pixels"]
    assert one["flipped"] == record["flipped_inside"] == 0
    assert record["judged_inside"] >= 1
    assert record["false_alarm"] == pytest.approx(settings["alpha"] * (1 + record["judged_inside"]))
    assert record["first_flip"] is None or claim["radius"] < record["first_flip"] <= record["searched"]
    assert "inside the certified radius" in record["statement"]
    assert "proves nothing" in record["statement"]
    assert record["statement"] in captured.err


def test_the_same_seed_gives_the_same_attack(tiny: Path, picture: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert attacked(tiny, tmp_path / out, picture, "--factors", 3) == 0
    first, second = (json.loads((tmp_path / out / "picture_attack.json").read_text()) for out in ("a", "b"))
    assert first["attacks"] == second["attacks"]
    assert first["first_flip"] == second["first_flip"]


def test_without_input_the_phantom_is_attacked_and_labeled(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attacked(tiny, tmp_path / "out", "--factors", 1) == 0
    assert "phantom" in capsys.readouterr().err
    assert (tmp_path / "out" / "phantom_attack.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--radius", "0"], "radius of the attack must be positive"),
        (["--radius", "-1"], "radius of the attack must be positive"),
        (["--radius", "nan"], "radius of the attack must be positive"),
        (["--tau", "0.5"], "radius of the attack must be positive"),
        (["--factors", "1", "0"], "factors must be positive"),
        (["--sigma", "0"], "sigma must be positive"),
        (["--bundle", "no_such_bundle"], "there is no bundle 'no_such_bundle'"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    command = ["attack", str(picture), "--bundle", str(tiny), "--output", str(tmp_path / "out"), "--n", str(N)]
    assert main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_bad_input_fails_in_a_sentence_that_names_it(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("text.png", "missing.png"):
        assert attacked(tiny, tmp_path / "out", tmp_path / name) == 1
        captured = capsys.readouterr()
        record = json.loads(captured.out)
        assert record["status"] == "error"
        assert name in record["error"]
        assert record["error"] in captured.err
        assert "Traceback" not in captured.err
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "text.png").unlink()
    (tmp_path / "twin.png").write_bytes(picture.read_bytes())
    assert attacked(tiny, tmp_path / "out", tmp_path) == 2
    assert "holds 2 images" in capsys.readouterr().err


def test_an_image_of_which_nothing_is_certified_is_a_sentence(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that calls bright what is brighter than gray, on a gray image."""
    undecided = make_tiny_bundle(tmp_path / "undecided_certified_segmentation")
    inference = undecided / "configs" / "inference.json"
    config = json.loads(inference.read_text())
    config["network_def"] = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
    inference.write_text(json.dumps(config))
    brighter = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.constant_(brighter.weight, 1.0)
    torch.nn.init.constant_(brighter.bias, -0.5)
    torch.save(brighter.state_dict(), undecided / "models" / "model.pt")
    gray = tmp_path / "gray.png"
    io.imsave(gray, np.full((SIDE, SIDE), 128, np.uint8), check_contrast=False)
    assert attacked(undecided, tmp_path / "out", gray) == 1
    assert "gray.png: no pixel is certified" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_no_certified_pixel_of_a_radiograph_flips_inside_the_radius(data_root: Path) -> None:
    item = chest_xray_datalist("montgomery", data_root, data_root / "splits.csv", "test")[0]
    bundle = load_bundle(DEFAULT_BUNDLE, device="cpu", overrides={"seed": 0})
    image = bundle.preprocessing(item)["image"].as_tensor()
    (certificate,) = bundle.inferer.certify(image[None], bundle.network)
    smoothed = Victim(lambda noisy: bundle.inferer.inferer(noisy, bundle.network), bundle.inferer.noise)
    delta = find_delta(
        smoothed, image, certificate.classes, certificate.radius, AttackSettings(steps=3, draws=4, seed=1)
    )
    assert size(delta) == pytest.approx(certificate.radius, rel=1e-5)
    with torch.no_grad():
        votes = draw_votes(image + delta, smoothed.predict, smoothed, draw_seeds(2, "judge", range(100)), 4)
    assert not judge(votes, certificate.classes, 0.001).flipped.any()
