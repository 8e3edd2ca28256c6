"""`rewriter photo`: a photo from file to file, a folder in one go, and an edit that points at a photo."""

import json
import math

import numpy as np
import pytest
from conftest import DATA, square
from PIL import Image

from rewriter import Edit, load_generator
from rewriter.cli.photo import _targets, sheet_of
from rewriter.editing.region import Region
from rewriter.photo import nearest, portable
from rewriter.pictures import save_png, to_image

QUICK = ("--effort", "0.02", "--faithful", "0.2", "--json")  # so little faithful that no layer has to be measured


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(nearest, "SEEDS", 48)


@pytest.fixture
def town_photo(town, tmp_path):
    """A town with a grey border, and where it is."""
    whole = Image.new("RGB", (160, 120), "grey")
    whole.paste(to_image(town.sample([3])[0]).resize((100, 100)), (30, 10))
    save_png(whole, tmp_path / "town.png")
    return tmp_path / "town.png", "30,10,100"


def test_a_photo_is_found_edited_put_back_and_kept(run, town, town_photo, shipped, tmp_path, monkeypatch):
    path, crop = town_photo
    (rule,) = shipped("dome-to-spire")
    rule.save(tmp_path / "spires.safetensors")
    out, found = tmp_path / "out" / "edited.png", tmp_path / "found.safetensors"
    given = ("--rule", tmp_path / "spires.safetensors", "--crop", crop, "--out", out, "--save", found)
    status, said, err = run("photo", path, *given, *QUICK)
    report = json.loads(said)
    assert status == 0 and report["name"].startswith("photo-") and report["adapted_db"] >= report["found_db"] > 10, err
    edited, original = np.asarray(Image.open(out)).astype(int), np.asarray(Image.open(path)).astype(int)
    assert edited.shape == original.shape and np.array_equal(edited[:, :25], original[:, :25])
    assert Image.open(out.with_name("edited-steps.png")).width > 4 * 64
    kept = portable.load(found, town)
    assert kept.name == report["name"]
    status, said, _ = run("photo", found, "--out", tmp_path / "again.png", *QUICK)
    assert status == 0 and json.loads(said)["adapted_db"] == report["adapted_db"]
    assert Image.open(tmp_path / "again.png").size == (64, 64)
    monkeypatch.setattr("rewriter.cli.photo.psnr", lambda *_: math.inf)
    assert json.loads(run("photo", found, "--out", tmp_path / "again.png", *QUICK)[1])["found_db"] == 99


def test_a_folder_is_done_in_one_go_and_goes_on_where_it_was(run, town, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(2):
        to_image(town.sample([i])[0]).save(folder / f"{i}.JPG", "JPEG")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("no photo")
    (folder / "._0.JPG").write_bytes(b"what macOS keeps beside a file on other disks")
    status, said, err = run("photo", folder, "--out", out, *QUICK)
    report = json.loads(said)
    assert status and len(report["photos"]) == 2 and report["there"] == 0 and "1 of 3 photos were left out" in err
    assert sorted(path.name for path in out.iterdir()) == [
        "0-steps.png",
        "0.png",
        "1-steps.png",
        "1.png",
        "photos.json",
    ]
    before, _ = (out / "0.png").stat().st_mtime_ns, (out / "1-steps.png").unlink()
    _, said, _ = run("photo", folder, "--out", out, *QUICK)
    assert [each["out"] for each in json.loads(said)["photos"]] == [str(out / "1.png")]
    assert (out / "0.png").stat().st_mtime_ns == before
    status, _, err = run("photo", folder, "--out", out, *QUICK, "--faithful", "0.9")
    assert status and "another folder" in err


def test_photos_whose_names_are_alike_get_results_and_sheets_of_their_own(tmp_path):
    files = [tmp_path / name for name in ("a-2.jpg", "a.jpg", "a.png", "b-steps.jpg", "b.jpg", "B.png")]
    targets = [*_targets(files, tmp_path)]
    written = [path.name.casefold() for target in targets for path in (target, sheet_of(target))]
    assert len({*written}) == 2 * len(files) and [path.name for path in targets[:3]] == ["a-2.png", "a.png", "a-3.png"]


def test_an_edit_that_points_at_a_photo_is_applied_with_the_photo(run, stylegan, tmp_path):
    small = DATA / "nvidia_stylegan2_16px_plain.pt"
    save_png(to_image(stylegan.sample([3])[0]), tmp_path / "town.png")
    kept = ("--save", tmp_path / "found.safetensors", "--out", tmp_path / "o.png", "--generator", small)
    assert run("photo", tmp_path / "town.png", *kept, *QUICK)[0] == 0
    name = portable.load(tmp_path / "found.safetensors", load_generator(str(small), device="cpu")).name
    mask = square(4, 4, 12, 12)
    edit = Edit("", "layer4", kind="zero", context=(Region(name, mask),))
    edit.save(tmp_path / "edit.json")
    assert f"it points at {name}: run it with --photo FILE" in run("inspect", tmp_path / "edit.json")[1]
    given = ("apply", tmp_path / "edit.json", "--out", tmp_path / "sheet.png", "--json", "--generator", small)
    status, _, err = run(*given)
    assert status and f"{name} is not here" in err and "--photo" in err
    status, said, err = run(*given, "--photo", tmp_path / "found.safetensors")
    assert status == 0 and json.loads(said)["layer"] == "layer4", err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.png",), "cannot read nowhere.png"),
        (("town.png", "--crop", "1,2"), "LEFT,TOP,SIDE"),
        (("town.png", "--crop", "900,900,50"), "not on the photo"),
        (("town.png", "--faithful", "2"), "faithful"),
        (("town.png", "--effort", "0"), "effort"),
        (("town.png", "--save", "me.png"), "ends in .safetensors"),
        (("town.png", "--out", "me.jpg"), "should end in .png"),
        (("town.png", "empty"), "holds no photos"),
        (("town.png", "town.png", "town2.png", "--save", "x.safetensors"), "writes one photo"),
        (("town.png", "--out", "town.png/x.png"), "cannot write"),
        (("damaged.safetensors",), "found photo"),
        (("photo.png",), "photo.png is one of the files given"),
        (("town.png", "--out", "./town.png"), "would be replaced"),
        (("town-steps.png", "--out", "town.png"), "town-steps.png is one of the files given"),
        (("town.png", "--rule", "damaged.safetensors", "--save", "damaged.safetensors"), "would be replaced"),
        (("folder", "--out", "folder"), "folder is one of the files given"),
        (("town.png", "folder/a.png", "--out", "folder"), "a.png is one of the files given"),
    ],
)
def test_bad_input_is_refused_with_what_to_do_before_anything_is_written(
    run, town_photo, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    (tmp_path / "folder").mkdir()
    for name in ("town2.png", "photo.png", "town-steps.png", "folder/a.png"):
        (tmp_path / name).write_bytes((tmp_path / "town.png").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run("photo", *QUICK, *arguments)
    assert status and not out and words in err
    assert sorted(tmp_path.rglob("*")) == before
