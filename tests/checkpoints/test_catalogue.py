"""The catalogue: what it says about every generator is right, a user's own is read, and whatever is wrong is named."""

import copy
import hashlib
import json
import re
import shutil
from dataclasses import asdict

import pytest
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st
from loopback import LoopbackHub

from rewriter import load_generator, worlds
from rewriter.checkpoints import catalogue as module
from rewriter.checkpoints.catalogue import (
    CHECKS,
    MOST,
    UNKNOWN,
    VARIABLE,
    Entry,
    built_ins,
    catalogue,
    entry_from,
    shipped,
)
from rewriter.errors import InputError


def published():
    """Repository, revision, file, resolution, size and SHA-256 of every file, as published when they were listed."""
    for line in (DATA / "published-files.txt").read_text().splitlines():
        words = [None if word == "-" else word for word in line.split()]
        if line[0] != " ":  # a repository and its revision, followed by their files
            place = words
        else:
            file, resolution, size, sha256 = words
            yield (*place, file, int(resolution), size and int(size), sha256)


FILES = list(published())
OURS = json.loads(shipped().read_text(encoding="utf-8"))
CHURCH = next(entry for entry in OURS["generators"] if entry["id"] == "church")
FIRST = CHURCH["revision"]
MINE = {**CHURCH, "id": "mine", "title": "My own"}
LOCAL = {**MINE, "repository": None, "revision": None, "file": "mine.pt", "size": None, "sha256": None}
LOCAL |= {"resolution": 16, "layers": {"structure": "layer2", "objects": "layer4", "texture": "layer6"}}
ROSINALITY, PLAIN = DATA / "rosinality_stylegan2_16px.pt", DATA / "nvidia_stylegan2_16px_plain.pt"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a user's catalogue with these entries; returns its path."""

    def add(*entries):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"version": 1, "generators": entries}))
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    return add


def test_published_files_are_listed_as_they_were_and_no_place_or_hash_is_made_up():
    entries = [entry for entry in catalogue().values() if entry.id not in built_ins()]
    listed = {(e.repository, e.revision, e.file, e.resolution, e.size, e.sha256) for e in entries}
    assert set(FILES) <= listed and len(catalogue()) == len(OURS["generators"])
    assert {entry[:2] for entry in listed} == {file[:2] for file in FILES}
    assert {entry[5] for entry in listed} == {file[5] for file in FILES}


@pytest.mark.parametrize("data", OURS["generators"], ids=lambda data: data["id"])
def test_each_entry_is_complete_and_states_its_licence(data):
    entry = entry_from(data, shipped().parent)
    assert set(CHECKS) - {"note", "package"} <= set(data) <= set(CHECKS)
    assert entry.sha256 is None or len(entry.sha256) == 64 or (entry.repository is None and len(entry.sha256) == 8)
    assert entry.attribution and entry.licence.link.startswith("https://")
    made = {name: {"nvidia-source-code-license-nc"} for name in ("stylegan2", "stylegan3")}
    made |= {
        "proggan": {"cc-by-nc-4.0"},
        "lightweight": {"mit"},
        "dcgan": {"mit", UNKNOWN},
        "fastgan": {"mit", UNKNOWN},
    }
    assert entry.licence.id in ({"apache-2.0"} if entry.id in built_ins() else made[entry.architecture])
    assert (entry.origin.licence is None) == (entry.licence.id == UNKNOWN) == ("states no licence" in entry.note)
    suffix = {"rosinality": ".pt", "genforce": ".bin", "gandissect": ".pth", "nvidia": (".pkl", ".safetensors")}
    suffix |= {"huggan": ".bin", "projected-gan": ".bin", "lightweight-gan": ".pt", "tensorflow": ".pkl"}
    assert entry.file.endswith({**suffix, "pytorch": ".tar"}[entry.layout])
    assert not re.search(r"[/\\]|\.(pt|pth|bin|pkl|tar)$", entry.id)
    assert entry.clamp is None or entry.layout == "rosinality" or entry.file.startswith("ada/")


def test_features_of_adaptive_trainings_are_clamped_and_those_of_the_first_stylegan2s_are_not():
    clamps = {(entry.revision, entry.file.split("/")[0]): entry.clamp for entry in catalogue().values()}
    assert {clamp for (_, folder), clamp in clamps.items() if folder in ("ada", "self_distill")} >= {256}
    assert {clamp for (revision, _), clamp in clamps.items() if revision == FIRST} == {None}


def test_a_licence_that_contradicts_its_repository_is_explained():
    huggan = next(entry for entry in catalogue().values() if str(entry.repository).startswith("huggan/"))
    assert huggan.licence.id == "cc-by-nc-4.0" and "apache-2.0" in huggan.note


@pytest.mark.parametrize("name", built_ins())
def test_a_built_in_entry_is_a_packaged_file(name):
    entry, data, town = catalogue()[name], worlds.weights(name).read_bytes(), worlds.load(name)
    assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert entry.resolution == town.resolution
    assert set(entry.layers.values()) <= set(town.layers)


def test_an_installation_without_its_table_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "rewriter")
    with pytest.raises(InputError, match=r"lacks checkpoints\.json: install the package again"):
        catalogue()


LONG = "x" * 500
WRONG = [  # what each kind of check refuses is tested with edits; here is what matters for a catalogue
    ("id", ["", "A", "a/b", "..", "-a", "a\n", LONG]),
    ("title", [None, LONG, "\x1b[2J"]),
    ("repository", ["", "name", "a/b/c", "../b", "a/..", "a/b.git", "https://x/y", LONG + "/b", 3, "a/b\n"]),
    ("file", ["", "/etc/passwd", "../a.pt", "a/../../b.pt", "a\\..\\b", "\\\\host\\a", "C:\\a.pt", "a\0b", LONG]),
    ("revision", ["main", "5fde0cd", FIRST.upper(), FIRST + "0", f"{FIRST}\n"]),
    ("package", ["", "faces", "--index-url==1", "-r==1", "a b==1", "faces==1.0 b==2", "faces>=1.0", "faces==1;x", 3]),
    ("size", [0, True, 1 << 41, float("nan"), "120878283"]),
    ("sha256", ["", "59", "5" * 65, "G" * 64, "A" * 64]),
    ("architecture", ["stylegan4", None, ["stylegan2"]]),
    ("layout", ["keras", {}]),
    ("resolution", [4, 2048, 256.0]),
    ("clamp", [0, float("nan"), 10**400, True]),
    ("licence", ["cc-by-4.0", {"id": "mit"}, {"id": "mit", "link": "https://x.org/a", "more": 1}]),
    ("licence", [{"id": "M I T", "link": "https://x.org/a"}, {"id": "mit", "link": "javascript:alert(1)"}]),
    ("attribution", [None, "a\nb"]),
    ("layers", [[], {"objects": "layer8"}, {"structure": "A b", "objects": "layer8", "texture": "layer8"}]),
    ("note", [None, "x" * 301]),
]


@pytest.mark.parametrize(("field", "values"), WRONG, ids=[field for field, _ in WRONG])
def test_a_wrong_field_is_refused_by_name(field, values, own):
    for value in values:
        path = own({**MINE, field: value})
        with pytest.raises(InputError) as caught:
            catalogue()
        said = str(caught.value)
        assert re.search(rf"entry .*: {field}\b", said) and str(path) in said
        assert said.isprintable() and len(said) < 500 + len(str(path))


def test_missing_and_unknown_fields_are_named_and_a_note_may_be_missing(own):
    for field in MINE.keys() - {"note"}:
        own({name: value for name, value in MINE.items() if name != field})
        with pytest.raises(InputError, match=f"the entry lacks {field}"):
            catalogue()
    for field in ("folder", "origin", "x" * 10_000, "\x1b[2J", ""):
        own({**MINE, field: 1})
        with pytest.raises(InputError, match="'mine': unknown field") as caught:
            catalogue()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    own(MINE)
    assert catalogue()["mine"].note == ""


def test_a_repository_and_a_revision_need_each_other(own):
    for one in ("repository", "revision"):
        own({**MINE, one: None})
        with pytest.raises(InputError, match="a repository needs a revision"):
            catalogue()


PACKED = {**MINE, "repository": None, "revision": None, "package": "faces==1.0", "file": "faces/weights.tar"}


def test_a_package_is_pinned_by_version_size_and_hash_and_is_no_repository(own):
    own(PACKED)
    assert catalogue()["mine"].package == "faces==1.0" and catalogue()["mine"].remote
    wrong = {"size": None, "sha256": PACKED["sha256"][:8], "repository": "a/b"}
    for field, value in wrong.items():
        own({**PACKED, field: value, "revision": (field == "repository" and FIRST) or None})
        with pytest.raises(InputError, match="a package needs size and whole sha256 of its file, and is no repository"):
            catalogue()


def test_ids_are_not_given_twice(own):
    path = own(MINE, LOCAL)
    with pytest.raises(InputError, match=f"{path} has one id twice"):
        catalogue()
    own(CHURCH)
    with pytest.raises(InputError, match="the id 'church' is taken: choose another"):
        catalogue()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"version": 1, "generators": ' + "1" * 5000 + "}", "not JSON"),
        ("[]", "expected an object with version"),
        ('{"version": 2, "generators": []}', "version is 2, expected 1"),
        ('{"version": 1}', "lacks generators"),
        ('{"version": 1, "generators": [], "more": 1}', "unknown field 'more'"),
        ('{"version": 1, "generators": {}}', "expected a list of at most 1000"),
        ('{"version": 1, "generators": [1]}', "expected an object with id"),
        (json.dumps({"version": 1, "generators": [{}] * (MOST + 1)}), f"at most {MOST}"),
        (" " * (5 << 20), "larger than 4 MB"),
        ("\xff\xfe", "not JSON"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_catalogue_is_refused(text, words, own):
    path = own()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words) as caught:
        catalogue()
    assert str(caught.value).startswith(f"the catalogue {path} cannot be used: ") and len(str(caught.value)) < 500


def test_a_missing_catalogue_is_named(monkeypatch, tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        monkeypatch.setenv(VARIABLE, str(path))
        with pytest.raises(InputError, match=f"the catalogue {path} cannot be used: cannot read"):
            catalogue()


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["a" * 40, "../x", "layer8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.sampled_from(list(CHECKS)), JUNK, max_size=3)


@given(FIELDS.map(lambda fields: {**MINE, **fields}) | st.dictionaries(st.sampled_from(list(CHECKS)), JUNK) | JUNK)
def test_hostile_json_is_an_entry_or_an_input_error(data):
    before = copy.deepcopy(data)
    try:
        entry = entry_from(data, shipped().parent)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        assert isinstance(entry, Entry) and entry.local.is_relative_to(shipped().parent)
        assert json.loads(json.dumps(entry.origin.to_json()))["id"] == entry.id
    assert repr(data) == repr(before)


def test_a_local_file_lies_beside_its_catalogue(own, monkeypatch, tmp_path):
    own(LOCAL)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"mine needs the file {tmp_path / 'mine.pt'}, which is not there"):
        load_generator("mine")
    (tmp_path / "mine.pt").mkdir()
    with pytest.raises(InputError, match="which is not there"):
        load_generator("mine")
    (tmp_path / "mine.pt").rmdir()
    shutil.copy(ROSINALITY, tmp_path / "mine.pt")
    generator = load_generator("mine", device="cpu")
    assert (generator.name, generator.advice) == ("mine", LOCAL["layers"])
    assert asdict(generator.origin.licence) == LOCAL["licence"] and len(generator.origin.sha256) == 64
    (tmp_path / "b").mkdir()  # another catalogue may have another file of the same name
    shutil.copy(PLAIN, tmp_path / "b" / "mine.pt")
    shutil.copy(tmp_path / "mine.json", tmp_path / "b")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "b" / "mine.json"))
    assert load_generator("mine", device="cpu").origin.sha256 != generator.origin.sha256


def test_a_local_file_may_change_unless_its_hash_is_given(own, tmp_path):
    path = tmp_path / "mine.pt"
    own(LOCAL)
    for source in (ROSINALITY, PLAIN):
        shutil.copy(source, path)
        assert load_generator("mine", device="cpu").origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    own({**LOCAL, "sha256": hashlib.sha256(ROSINALITY.read_bytes()).hexdigest()})
    with pytest.raises(InputError, match="not the file of mine: expected SHA-256 .* Nothing was read or deleted"):
        load_generator("mine", device="cpu")


def test_the_list_tells_size_licence_and_whether_a_generator_is_downloaded(run, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    status, out, _ = run("generators")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert status == 0 and set(catalogue()) <= set(lines)
    assert "120.9 MB" in lines["church"] and " no " in lines["church"] and "256 px" in lines["church"]
    assert "built in" in lines["townscape"] and "4.6 MB" in lines["townscape"]
    assert " yourself " in lines["paper-church"] and "–" in lines["afhq-cat"]
    assert all(entry.licence.id in lines[name] for name, entry in catalogue().items())
    assert "rewriter sample --generator church" in out and "cc-by-nc-4.0" in lines["celebahq:"]
    rows = {row["id"]: row for row in json.loads(run("generators", "--json")[1])["generators"]}
    assert set(rows) == set(catalogue())
    for name, entry in catalogue().items():
        assert rows[name]["licence"] == entry.licence.id and rows[name]["revision"] == entry.revision
        assert rows[name]["sha256"] == entry.sha256 and rows[name]["attribution"] == entry.attribution


def test_a_users_own_generators_are_listed_too(run, own, tmp_path, monkeypatch):
    data = ROSINALITY.read_bytes()
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        commit = hub.add("model", "ada/faces", {"g.pt": data}).at()
        remote = {**LOCAL, "id": "remote", "repository": "ada/faces", "revision": commit.oid, "file": "g.pt"}
        path = own(LOCAL, remote)

        def listed():
            rows = json.loads(run("--catalogue", path, "generators", "--json")[1])["generators"]
            found = {row["id"]: row for row in rows}
            return [(found[name]["here"], found[name]["size"]) for name in ("mine", "remote")]

        assert listed() == [("yourself", None), ("no", None)] and hub.requests == []
        (tmp_path / "mine.pt").write_bytes(data)
        assert load_generator("remote", device="cpu").name == "remote"
        asked = len(hub.requests)
        assert listed() == [("yes", len(data))] * 2 and len(hub.requests) == asked
