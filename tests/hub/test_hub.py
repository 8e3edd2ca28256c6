"""What names mean, and generators by name, by path and as folders of ours; what `rewriter convert` writes for whom."""

import hashlib
import json
import shutil

import pytest
import torch
from conftest import DATA, golden
from huggingface_hub import constants
from loopback import LoopbackHub
from safetensors.torch import load_file, save_file

from rewriter import Rule, files, load_generator
from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import VARIABLE
from rewriter.editing import twin
from rewriter.errors import InputError
from rewriter.generators.origin import FoldedRule, Origin
from rewriter.hub import sources
from rewriter.hub.draft import draft
from rewriter.hub.resolve import resolve
from rewriter.pictures import difference

ROSINALITY, CLAMPED = DATA / "rosinality_stylegan2_16px.pt", DATA / "nvidia_stylegan2_16px_clamped.pt"
PLAIN, GENFORCE = DATA / "nvidia_stylegan2_16px_plain.pt", DATA / "genforce_stylegan2_16px.bin"
GANDISSECT, PGGAN = DATA / "gandissect_proggan_32px.pth", DATA / "genforce_pggan_32px.bin"
ALL = (ROSINALITY, CLAMPED, PLAIN, GENFORCE, GANDISSECT, PGGAN)
REPO = "ada/portraits"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that serves `portraits`."""
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "ours"))
        hub.add("model", REPO, {"likenesses.pt": ROSINALITY.read_bytes()})
        yield hub


@pytest.fixture
def portraits(hub, tmp_path, monkeypatch):
    """Write a user's catalogue that lists `portraits`, clamped at 256, with these changes."""

    def add(**changed):
        revision = hub.repositories["model", REPO].at().oid
        data = {
            "id": "likenesses",
            "title": "Portraits",
            "repository": REPO,
            "file": "likenesses.pt",
            "revision": revision,
        }
        data |= {"size": ROSINALITY.stat().st_size, "sha256": sha256(ROSINALITY), "architecture": "stylegan2"}
        data |= {"layout": "rosinality", "resolution": 16, "clamp": 256, "attribution": "Ada"}
        data |= {"licence": {"id": "mit", "link": "https://opensource.org/license/mit"}}
        data |= {"layers": {"structure": "layer2", "objects": "layer4", "texture": "layer20"}, **changed}
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"version": 1, "generators": [data]}))
        monkeypatch.setenv(VARIABLE, str(path))

    return add


@pytest.fixture
def convert(run):
    """`rewriter convert`, in JSON; without its doubts whether networks with random weights are drawn rightly."""

    def command(*arguments):
        status, out, err = run("convert", *arguments, "--json")
        assert status == 0, err
        report = json.loads(out)
        return {**report, "remarks": [each for each in report["remarks"] if not each.startswith("careful")]}

    return command


@pytest.fixture
def refused(run, tmp_path):
    """The one line of a conversion that must fail and leave nothing behind."""

    def command(*arguments):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = run("convert", *arguments)
        assert (status, out) == (2, "") and err.startswith("rewriter: ") and err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return command


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path, **options):
    return load_generator(str(path), device="cpu", **options)


def same(one, other):
    """Whether two generators are equal to the bit."""
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a) and one.fingerprint == other.fingerprint


# --- what a name means ---


def test_each_kind_of_name_is_resolved_without_a_request(hub, portraits, town, stylegan, random_rule, tmp_path):
    portraits()
    store.save(stylegan, tmp_path / "weights")
    rules_only = draft(town, [random_rule(town, "layer8")], "ada/rules", weights=False, pictures=False)
    rules_only.save(tmp_path / "rules")
    kinds = {
        "townscape": (sources.Known, True),
        "likenesses": (sources.Known, False),
        str(ROSINALITY): (sources.File, True),
        str(tmp_path / "weights"): (sources.Folder, True),
        str(tmp_path / "rules"): (sources.Folder, True),
        "ada/rules": (sources.Repository, False),
    }
    for name, (kind, local) in kinds.items():
        source = resolve(name)
        assert (type(source), source.name, source.is_local) == (kind, name, local)
    assert resolve("likenesses").origin.licence.id == "mit" and resolve("ada/rules").origin == Origin()
    assert hub.requests == []


def test_a_source_is_fetched_once_and_then_local(hub, portraits, town, random_rule):
    portraits()
    source, steps = resolve("likenesses"), []
    assert source.fetch(lambda *step: steps.append(step)) == source and source.is_local
    assert steps[-1] == (ROSINALITY.stat().st_size,) * 2
    made = draft(town, [random_rule(town, "layer8")], "ada/rules", weights=False, pictures=False)
    published = hub.add("model", "ada/rules", made.files)
    fetched = resolve("ada/rules").fetch()
    assert fetched.revision == published.at().oid and fetched.is_local and not resolve("ada/rules").is_local
    asked = len(hub.requests)
    assert fetched.load(device="cpu").origin.published == f"ada/rules@{fetched.revision}"
    assert resolve("ada/rules", revision=fetched.revision).is_local and len(hub.requests) == asked
    published.commit({}, "gone")
    with pytest.raises(InputError, match="check the name"):
        resolve("ada/rules").load()


def test_a_source_is_not_local_any_more_when_a_file_is_deleted(hub, stylegan, random_rule, tmp_path):
    made = draft(stylegan, [random_rule(stylegan, "layer4")], "ada/portraits", pictures=False)
    made.save(tmp_path / "made")
    weights = (tmp_path / "made" / store.WEIGHTS).read_bytes()
    hub.add("model", "ada/own", {**made.files, store.WEIGHTS: weights})
    fetched = resolve("ada/own").fetch()
    assert fetched.is_local
    next((tmp_path / "hub").rglob(f"*/{store.WEIGHTS}")).unlink()
    assert not fetched.is_local
    with pytest.raises(InputError, match="ada/own is not on this machine any more: fetch it again"):
        fetched.read()


def test_the_card_of_a_gated_rule_says_how_exported_weights_differ_from_it(begin, stylegan, random_rule):
    gated, plain = begin().execute(form="gated"), random_rule(stylegan, "layer4")
    card = draft(stylegan, [gated], "ada/hats", export=["rosinality"], pictures=False).card
    assert "Plain weights cannot hold the form gated" in card and "/255 on average from those with the rules" in card
    assert "gated, rank 1" in card and "a memory beside them" in card
    plain_card = draft(stylegan, [plain], "ada/hats", export=["rosinality"], pictures=False).card
    assert "cannot hold" not in plain_card and "beside them" not in plain_card
    seeds, folded = range(4), stylegan.rewritten([gated])
    expected = float(difference(stylegan.sample(seeds, rules=[gated]), folded.sample(seeds)).mean())
    assert expected > 0 and twin.difference(stylegan, [gated], seeds) == pytest.approx(expected)
    assert twin.difference(stylegan, [plain], seeds) < 1e-3


@pytest.mark.parametrize("name", ["church!", "", "x" * 5000, "a\0b", "none.pt", "./none", "a\\b", "no-such-folder/"])
def test_a_name_that_means_nothing_is_refused_with_the_next_step(name):
    with pytest.raises(InputError, match="`rewriter generators`"):
        resolve(name)


def test_folders_of_others_and_revisions_of_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="a folder without config.json"):
        load(tmp_path)
    for name in ("townscape", str(ROSINALITY)):
        with pytest.raises(InputError, match="has no revisions"):
            resolve(name, revision="main")


# --- by name ---


def test_a_catalogue_entry_is_downloaded_once_and_knows_whose_it_is(hub, portraits):
    portraits()
    generator = load("likenesses")
    assert (generator.name, generator.resolution, generator.config.conv_clamp) == ("likenesses", 16, 256)
    assert generator.advice == {"structure": "layer2", "objects": "layer4"}  # it has no layer20
    assert generator.origin.sha256 == sha256(ROSINALITY) and generator.origin.licence.id == "mit"
    assert generator.origin.to_json()["revision"] == hub.repositories["model", REPO].at().oid
    asked = len(hub.requests)
    assert same(load("likenesses"), generator) and len(hub.requests) == asked
    assert load("likenesses", conv_clamp=3).config.conv_clamp == 3


def test_a_clamp_is_refused_where_it_is_known_or_impossible(tmp_path, stylegan):
    for clamp in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="conv_clamp is .*, expected a number from"):
            load(ROSINALITY, conv_clamp=clamp)
    store.save(stylegan, tmp_path / "folder")
    with pytest.raises(InputError, match="says itself whether its features are clamped"):
        load(tmp_path / "folder", conv_clamp=256)
    with pytest.raises(InputError, match="is a proggan, which takes no conv_clamp"):
        load(GANDISSECT, conv_clamp=256)


@pytest.mark.parametrize(("field", "wrong"), [("resolution", 32), ("architecture", "proggan")])
def test_a_wrong_entry_of_the_catalogue_is_reported(portraits, field, wrong):
    portraits(**{field: wrong})
    with pytest.raises(InputError, match=f"the {field} of likenesses is .*, not {wrong} as the catalogue says"):
        load("likenesses")


def test_a_file_of_the_catalogue_is_recognised_under_any_name(portraits, tmp_path, hub):
    portraits()
    path = tmp_path / "some other name.bin"
    shutil.copy(ROSINALITY, path)
    generator = load(path)
    assert (generator.name, generator.config.conv_clamp) == ("likenesses", 256) and hub.requests == []
    assert same(generator, load("likenesses"))
    portraits(sha256="0" * 64)  # the same size is not enough
    assert load(ROSINALITY).name == ROSINALITY.stem and load(ROSINALITY).config.conv_clamp is None


def test_a_file_of_unknown_size_is_recognised_by_its_name_and_hash(portraits, tmp_path):
    portraits(size=None, sha256=sha256(ROSINALITY)[:8], repository=None, revision=None)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(ROSINALITY, tmp_path / "elsewhere" / "likenesses.pt")
    assert load(tmp_path / "elsewhere" / "likenesses.pt").name == "likenesses"
    shutil.copy(PLAIN, tmp_path / "elsewhere" / "likenesses.pt")
    assert load(tmp_path / "elsewhere" / "likenesses.pt").origin == Origin(file="likenesses.pt")


# --- a folder of ours ---


@pytest.mark.parametrize("source", ALL, ids=lambda path: path.stem)
def test_the_round_trip_is_exact(source, convert, tmp_path):
    original = load(source)
    for form in ("folder", "v1.2", "file.safetensors"):
        report, again = convert(source, tmp_path / form), load(tmp_path / form)
        assert same(again, original) and report["fingerprint"] == original.fingerprint and report["remarks"] == []
        assert again.settings() == original.settings()
        assert torch.equal(again.sample([0, 1]), original.sample([0, 1]))
        if form != "file.safetensors":
            assert sorted(path.name for path in (tmp_path / form).iterdir()) == ["config.json", "model.safetensors"]
            assert again.name == original.name and again.origin.sha256 == sha256(source)


def test_a_folder_keeps_origin_and_advice(portraits, convert, tmp_path):
    portraits()
    convert("likenesses", tmp_path / "out")
    original, again = load("likenesses"), load(tmp_path / "out")
    assert (again.name, again.origin, again.advice) == ("likenesses", original.origin, original.advice)
    convert(tmp_path / "out", tmp_path / "twice")
    configs = [(tmp_path / name / store.CONFIG).read_bytes() for name in ("out", "twice")]
    assert configs[0] == configs[1] and same(load(tmp_path / "twice"), again)


@pytest.fixture
def folder(tmp_path):
    store.save(load(CLAMPED), tmp_path / "out")
    return tmp_path / "out"


def test_tampered_or_missing_weights_are_refused(folder):
    weights = load_file(folder / store.WEIGHTS)
    for clamp in (None, "2.5", "-1", "nan", "x"):
        metadata = {"format": "pt", **({"conv_clamp": clamp} if clamp else {})}
        save_file(weights, folder / store.WEIGHTS, metadata=metadata)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load(folder)
    weights["mapping.w_avg"][0] += 1
    save_file(weights, folder / store.WEIGHTS, metadata={"format": "pt", "conv_clamp": "1.5"})
    with pytest.raises(InputError, match=r"model\.safetensors does not belong to config.json: expected the"):
        load(folder)
    (folder / store.WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "other"}, "not the config of a generator"),
        ({"version": 3}, "update this package"),
        ({"fingerprint": "0" * 64}, "expected the fingerprint 000000000000"),
        ({"fingerprint": ["x"] * 1000}, "fingerprint"),
        ({"name": None}, "lacks name, origin, layers"),
        ({"origin": []}, "lacks name, origin, layers"),
        ({"layers": ["layer2"]}, "lacks name, origin, layers"),
    ],
)
def test_a_tampered_config_is_refused(folder, changed, words):
    path = folder / store.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(InputError, match=words) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "x" * (2 << 20), "\xff"])
def test_a_damaged_config_is_refused(folder, text):
    (folder / store.CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.json"):
        load(folder)


def test_only_valid_fields_of_a_strangers_config_are_kept(folder):
    path = folder / store.CONFIG
    about = json.loads(path.read_text())

    def loaded(**changed):
        path.write_text(json.dumps({**about, **changed}))
        return load(folder)

    layers = {"objects": ["layer2"], "structure": {"a": 1}, "texture": "layer4", "more": "layer99"}
    generator = loaded(name="\x1b[2J" + "x" * 500, layers=layers)
    assert generator.advice == {"texture": "layer4"}
    assert generator.name.isprintable() and len(generator.name) <= 80
    licence = {"id": "<b>", "link": "javascript:alert(1)"}
    told = {"title": "fine", "attribution": "\x1b[2J", "licence": licence, "more": {"a": 1}, "file": "../../etc"}
    rule = {"title": "hats", "layer": "layer4", "rank": 1, "strength": 1.0}
    generator = loaded(origin={**told, "rules": [rule]}, layers={"\x1b[2J": "layer4"})
    assert generator.origin == Origin(title="fine", rules=(FoldedRule(**rule),)) and generator.advice == {}
    assert loaded(origin={"licence": "x", "rules": [3]}).origin == Origin()


# --- for other people's tools ---


@pytest.mark.parametrize("source", ALL, ids=lambda path: path.stem)
@pytest.mark.parametrize("layout", ["rosinality", "nvidia", "genforce", "gandissect"])
def test_a_file_in_another_layout_is_read_as_the_same_generator(source, layout, run, tmp_path):
    original, out = load(source), tmp_path / "theirs.pt"
    status, said, err = run("convert", source, out, "--layout", layout)
    proggan = source in (GANDISSECT, PGGAN)
    if status or (layout != "genforce" and proggan == (layout in ("rosinality", "nvidia"))):
        assert status == 2 and err.count("\n") == 1 and not out.exists()
        assert f"cannot be written as {layout!r}: choose" in err or source == GENFORCE and "filter" in err
        return
    assert original.fingerprint[:12] in said and str(out) in said
    again = load(out, conv_clamp=original.settings().get("conv_clamp"))
    if layout == "genforce" and not proggan and source != GENFORCE:  # which stores its styles less one, and rounds
        assert (again.sample([0]) - original.sample([0])).abs().max() < 1e-4
    else:
        assert again.fingerprint == original.fingerprint


def test_rosinalitys_form_is_the_published_one(convert, tmp_path):
    assert convert(ROSINALITY, tmp_path / "g.pt", "--layout", "rosinality")["remarks"] == []
    written, published = torch.load(tmp_path / "g.pt", weights_only=True), golden(ROSINALITY.name)
    assert set(written) == set(published) and torch.equal(written["latent_avg"], published["latent_avg"])
    shapes = [{name: value.shape for name, value in each["g_ema"].items()} for each in (written, published)]
    assert shapes[0] == shapes[1]


def test_a_clamp_is_stored_where_a_layout_can_and_reported_where_not(convert, tmp_path):
    original = load(CLAMPED)
    for layout, words in (("rosinality", "has no clamp"), ("nvidia", "conv_clamp=1.5"), ("genforce", "has no clamp")):
        (remark,) = convert(CLAMPED, tmp_path / f"{layout}.pt", "--layout", layout)["remarks"]
        assert words in remark and "1.5" in remark
    assert load(tmp_path / "rosinality.pt").fingerprint == original.fingerprint
    assert load(tmp_path / "nvidia.pt").fingerprint != original.fingerprint
    assert load(tmp_path / "nvidia.pt", conv_clamp=1.5).fingerprint == original.fingerprint
    assert convert(PLAIN, tmp_path / "plain.pt", "--layout", "nvidia")["remarks"] == []
    convert(ROSINALITY, tmp_path / "given", "--conv-clamp", "256")
    assert load(tmp_path / "given").fingerprint == load(ROSINALITY, conv_clamp=256).fingerprint


def test_a_pickle_of_tensorflow_holds_the_clamp_and_says_what_it_is_for(convert, tmp_path):
    (remark,) = convert(CLAMPED, tmp_path / "theirs.pkl", "--layout", "tensorflow")["remarks"]
    again, original = load(tmp_path / "theirs.pkl"), load(CLAMPED)
    assert "discriminator is a stand-in" in remark and again.settings() == original.settings()
    assert (again.sample([0]) - original.sample([0])).abs().max() < 1e-4  # styles are stored less one, and rounded


@pytest.fixture
def rules(random_rule, tmp_path):
    """Two rule files of the golden generator."""
    generator, files = load(ROSINALITY), []
    for seed, layer in enumerate(("layer4", "layer6")):
        files.append(tmp_path / f"{layer}.safetensors")
        random_rule(generator, layer, seed=seed).save(files[-1])
    return files


@pytest.mark.parametrize(("name", "layout"), [("out", None), ("out.safetensors", None), ("out.pt", "rosinality")])
def test_rules_are_folded_into_the_weights(name, layout, rules, convert, tmp_path):
    options = [part for path in rules for part in ("--rule", path)] + (["--layout", layout] if layout else [])
    report, base = convert(ROSINALITY, tmp_path / name, *options), load(ROSINALITY)
    folded = load(tmp_path / name)
    assert folded.fingerprint == report["fingerprint"] != base.fingerprint
    wanted = base.sample([0, 1], rules=[Rule.load(path) for path in rules])
    assert (folded.sample([0, 1]) - wanted).abs().max() < 1e-4 < (wanted - base.sample([0, 1])).abs().max()
    if name == "out":
        assert [rule.layer for rule in folded.origin.rules] == ["layer4", "layer6"]


# --- what is refused ---


def test_impossible_conversions_are_refused_before_any_download(refused, hub, portraits, tmp_path):
    portraits()
    for name, options, words in (
        ("out.pt", (), "choose one with --layout"),
        ("out", ("--layout", "nvidia"), "must end in .pt"),
        ("out.safetensors", ("--layout", "nvidia"), "must end in .pt"),
        ("out.pkl", ("--layout", "nvidia"), "must end in .pt"),
        ("out.pt", ("--layout", "tensorflow"), "must end in .pkl"),
        ("out.pt", ("--layout", "keras"), "'keras' is no layout: choose nvidia, tensorflow"),
        ("out", ("--conv-clamp", "-1"), "a number from"),
    ):
        assert words in refused("likenesses", tmp_path / name, *options)
    (tmp_path / "file").write_text("no folder")
    assert "cannot write" in refused("likenesses", tmp_path / "file" / "out")
    (tmp_path / "folder.pt").mkdir()
    assert "it is a folder" in refused("likenesses", tmp_path / "folder.pt", "--layout", "rosinality")
    assert hub.requests == []


def test_wrong_sources_and_rules_are_refused(refused, rules, tmp_path):
    junk = tmp_path / "junk.pt"
    junk.write_bytes(ROSINALITY.read_bytes()[:-1000])
    assert "fetch it again" in refused(junk, tmp_path / "out")
    assert "unknown generator" in refused("nobody", tmp_path / "out")
    assert "there is no file" in refused(tmp_path / "none.pt", tmp_path / "out")
    assert "cannot read" in refused(PLAIN, tmp_path / "out", "--rule", tmp_path / "none.safetensors")
    assert "generator" in refused(GANDISSECT, tmp_path / "out", "--rule", rules[0])


def test_an_interrupted_conversion_leaves_the_old_files(convert, run, tmp_path, monkeypatch):
    convert(PLAIN, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(files, "save_file", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left")))
    status, _, err = run("convert", CLAMPED, tmp_path / "out")
    assert status == 2 and "nothing was changed" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


# --- on the command line ---


def test_the_hash_of_a_first_download_is_told_and_remembered(run, portraits, tmp_path, monkeypatch):
    portraits(sha256=None, size=None)
    monkeypatch.chdir(tmp_path)
    status, _, err = run("sample", "--generator", "likenesses", "--seeds", "0", "--device", "cpu")
    assert status == 0 and f"later downloads must have the same SHA-256, {sha256(ROSINALITY)}" in err
    assert "SHA-256" not in run("sample", "--generator", "likenesses", "--seeds", "0", "--device", "cpu")[2]
    assert json.loads((tmp_path / "ours" / "verified.json").read_text())


def test_a_downloaded_generator_draws_the_same_offline(run, portraits, hub, tmp_path, monkeypatch):
    portraits()
    for name in ("first.png", "again.png"):
        arguments = "--generator", "likenesses", "--seeds", "0", "--device", "cpu", "--out", tmp_path / name
        assert run("sample", *arguments)[0] == 0
        asked = len(hub.requests)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(hub.requests) == asked and (tmp_path / name).read_bytes() == (tmp_path / "first.png").read_bytes()


def test_a_failed_download_is_one_clear_line(run, portraits, hub, tmp_path, monkeypatch):
    portraits()
    monkeypatch.chdir(tmp_path)
    hub.repositories["model", REPO].gated = True
    status, out, err = run("sample", "--generator", "likenesses", "--seeds", "0")
    assert (status, out, err.count("\n")) == (2, "", 1) and "accept it on its page" in err
    assert not (tmp_path / "sample.png").exists()
