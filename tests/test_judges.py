"""The learned judges: files come from a loopback Hub over HTTP, in the real layouts; weights are random."""

import hashlib
import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from loopback import LoopbackHub
from safetensors.torch import save
from torch import nn

from rewriter.errors import CancelledError, InputError
from rewriter.evaluation import judges
from rewriter.evaluation.judges import FILES, LPIPS, NONE

VGG16 = tuple(index for index, layer in enumerate(LPIPS().features) if isinstance(layer, nn.Conv2d))
CHANNELS = (64, 128, 256, 512, 512)
WORDS = ["spire", "dome", "sky"]
GOLDEN = """
0.400043 1.407015 1.507347 0.467126 1.228886 0.815071 0.764309 1.303879 1.140861 0.396565 0.380146
1.323824 0.792039 1.051301 1.071935 0.680424 1.263205 0.732324 0.975019 1.429567 0.970935 0.940466
0.848267 1.133342 1.386382 0.920764 1.029858 1.386199 1.426076 0.419602 0.37207 1.238609"""


def put(hub, monkeypatch, files):
    """Serve files under the names of the table, and let the table mean exactly these."""
    for repository in {FILES[name].repository for name in files}:
        inside = {FILES[name].file: data for name, data in files.items() if FILES[name].repository == repository}
        hub.add("model", repository, inside)
    meant = {
        name: replace(
            FILES[name],
            revision=hub.repositories["model", FILES[name].repository].at().oid,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for name, data in files.items()
    }
    monkeypatch.setattr(judges, "FILES", {**FILES, **meant})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        yield hub


@pytest.fixture(scope="module")
def trunk():
    """A classifier's weights: torchvision's features; of its head only something that must not be read."""
    draw = torch.Generator().manual_seed(0)
    state, inputs = {"pre_logits.fc1.weight": torch.zeros(3), "head.fc.bias": torch.zeros(3)}, 3
    for index, width in zip(VGG16, [w for stage in judges.WIDTHS for w in stage], strict=True):
        state[f"features.{index}.weight"] = torch.randn(width, inputs, 3, 3, generator=draw) * (2 / inputs / 9) ** 0.5
        state[f"features.{index}.bias"] = torch.randn(width, generator=draw) * 0.1
        inputs = width
    return state


@pytest.fixture(scope="module")
def heads():
    draw = torch.Generator().manual_seed(1)
    return {f"{stage}.weight": torch.rand(1, width, 1, 1, generator=draw) for stage, width in enumerate(CHANNELS)}


@pytest.fixture
def served(hub, monkeypatch, trunk, heads):
    put(hub, monkeypatch, {"trunk": save(trunk), "heads": save(heads)})
    return hub


@pytest.fixture(scope="module")
def distance(trunk, heads):
    """The judge with these weights, without a Hub."""
    made = LPIPS().eval()
    made.features.load_state_dict({key[9:]: value for key, value in trunk.items() if key.startswith("features.")})
    made.heads.load_state_dict(heads)
    return made


@pytest.fixture(scope="module")
def pictures():
    """Two smooth pictures of 64 px."""
    coarse = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return F.interpolate(coarse, (64, 64), mode="bicubic").tanh()


def test_every_file_is_pinned_whole():
    for source in FILES.values():
        assert len(source.revision) == 40 and len(source.sha256) == 64
        assert source.file.endswith((".safetensors", ".json", ".txt"))


# --- LPIPS ---


def test_the_features_are_numbered_as_torchvision_numbers_them():
    assert VGG16 == (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def test_identical_pictures_have_no_distance(distance, pictures):
    assert torch.equal(distance(pictures, pictures), torch.zeros(2, 64, 64))


def test_the_distance_grows_with_the_distortion(distance, pictures):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(3))
    far = [float(distance(pictures, pictures + size * noise).mean()) for size in (0.02, 0.1, 0.3)]
    assert 0 < far[0] < far[1] < far[2]


def test_the_distance_is_symmetric_and_of_each_picture_alone(distance, pictures):
    many = pictures.repeat(3, 1, 1, 1)[:5]  # more than a batch
    there, back = distance(many, many.flip(3)), distance(many.flip(3), many)
    assert there.shape == (5, 64, 64) and (there > 0).any()
    torch.testing.assert_close(there, back)
    torch.testing.assert_close(there[4:], distance(many[4:], many[4:].flip(3)))


def test_a_change_in_a_corner_is_seen_there(distance):
    before = F.interpolate(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(4)), 256).tanh()
    after = before.clone()
    after[..., :16, :16] *= -1
    seen = distance(before, after)[0]
    assert float(seen[-16:, -16:].max()) < 1e-6 < 0.1 < float(seen[:16, :16].mean())


def test_what_overshoots_is_cut_off(distance, pictures):
    assert torch.equal(distance(pictures * 9, pictures), distance((pictures * 9).clamp(-1, 1), pictures))


def test_it_is_the_distance_of_lpips_0_1_4(distance, pictures):
    """Figures that the package itself gave of these weights and pictures (net="vgg", spatial=True)."""
    found = distance(pictures, pictures.flip(3))
    wanted = torch.tensor([float(figure) for figure in GOLDEN.split()])
    torch.testing.assert_close(found[:, ::21, ::21].flatten(), wanted, rtol=1e-4, atol=1e-5)


def test_it_is_the_distance_of_the_package_lpips(distance, pictures, trunk, heads, monkeypatch):
    if "torchvision" not in sys.modules:  # of which the package wants the architecture alone
        features = LPIPS().features
        vision = ModuleType("torchvision")
        vision.models = SimpleNamespace(vgg16=lambda pretrained: SimpleNamespace(features=features))
        monkeypatch.setitem(sys.modules, "torchvision", vision)
    package = pytest.importorskip("lpips")
    theirs = package.LPIPS(net="vgg", pnet_rand=True, pretrained=False, spatial=True, verbose=False)
    state = theirs.state_dict()
    for key in state:
        part, _, rest = key.partition(".")
        if part == "net":
            state[key] = trunk["features." + rest.partition(".")[2]]
        elif part.startswith("lin") and part != "lins":
            state[key] = heads[f"{part[3:]}.weight"]
        elif part == "lins":
            state[key] = heads[f"{rest.partition('.')[0]}.weight"]
    theirs.load_state_dict(state)
    with torch.no_grad():
        wanted = theirs(pictures, pictures.flip(3))[:, 0]
    torch.testing.assert_close(distance(pictures, pictures.flip(3)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17), "one shape"),
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), r"expected \(n, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 8, 16), "of 16 px or more"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), r"expected \(n, 3, H, W\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8),) * 2 + ("uint8",),
    ],
)
def test_what_is_no_pair_of_pictures_is_refused(a, b, said):
    with pytest.raises(InputError, match=said):
        LPIPS()(a, b)


def test_files_are_fetched_once_and_told_of(served, distance, pictures):
    told = []
    judge = judges.lpips("cpu", lambda done, of: told.append((done, of)))
    assert torch.equal(judge(pictures, pictures.flip(3)), distance(pictures, pictures.flip(3)))
    assert any(done == of for done, of in told) and len({of for _, of in told}) == 2
    asked = len(served.requests)
    judges.lpips("cpu")
    assert len(served.requests) == asked


def test_a_download_can_be_stopped(served):
    def stop(done, of):
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        judges.lpips("cpu", stop)


def test_another_file_than_the_one_meant_is_refused(served, monkeypatch):
    wrong = replace(judges.FILES["heads"], sha256=FILES["heads"].sha256)
    monkeypatch.setattr(judges, "FILES", {**judges.FILES, "heads": wrong})
    with pytest.raises(
        InputError, match=r"is not the file of lpips/vgg_lpips_linear.safetensors: expected SHA-256 0c63"
    ):
        judges.lpips("cpu")


def test_a_hub_that_has_it_not_is_told_of(hub):
    with pytest.raises(InputError, match=r"cannot download vgg16.tv_in1k/model.safetensors from timm/vgg16.tv_in1k"):
        judges.lpips("cpu")


def test_an_unknown_device_is_refused(served):
    with pytest.raises(InputError, match="try cpu, cuda or mps"):
        judges.lpips("tpu9")


# --- CLIPSeg ---


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    """CLIPSeg's files as transformers writes them, tiny and random, in the layout of those that are published."""
    transformers = pytest.importorskip("transformers", reason="needs the extra eval")
    folder = tmp_path_factory.mktemp("clipseg")
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "sp", "do", "<|startoftext|>", "<|endoftext|>"]
    tiny = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    config = transformers.CLIPSegConfig(
        text_config={**tiny, **ends, "num_hidden_layers": 2, "vocab_size": len(pieces)},
        vision_config={**tiny, "num_hidden_layers": 4, "image_size": 32, "patch_size": 16},
        projection_dim=32,
        extract_layers=[1, 2, 3],
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
        use_complex_transposed_convolution=True,
    )
    torch.manual_seed(5)
    model = transformers.CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        model.decoder.transposed_convolution[-1].weight *= 0.1  # so that probabilities are not 0 and 1 alone,
        model.decoder.film_mul.weight *= 10  # and words matter
    model.save_pretrained(folder)
    return {
        "vocabulary": json.dumps({piece: index for index, piece in enumerate(pieces)}).encode(),
        "merges": b"#version: 0.2\ns p\nd o\n",
        "config": (folder / "config.json").read_bytes(),
        "model": (folder / "model.safetensors").read_bytes(),
    }


@pytest.fixture
def segmenter(hub, monkeypatch, clipseg):
    put(hub, monkeypatch, clipseg)
    return judges.segmenter("cpu")


def test_labels_are_words_or_none(segmenter, pictures):
    labels = segmenter(pictures, WORDS)
    assert labels.shape == (2, 64, 64) and labels.dtype == torch.int64
    assert set(labels.unique().tolist()) <= {NONE, 0, 1, 2}
    segmenter.threshold = 0.0
    assert (segmenter(pictures, WORDS) >= 0).all()
    segmenter.threshold = 1.1
    assert (segmenter(pictures, WORDS) == NONE).all()


def test_labels_follow_their_words_and_pictures(segmenter, pictures):
    segmenter.threshold = 0.0
    labels, many = segmenter(pictures, WORDS), pictures.repeat(3, 1, 1, 1)[:5]
    assert len(labels.unique()) > 1
    assert ((2 - segmenter(pictures, WORDS[::-1])) == labels).float().mean() > 0.99
    assert (segmenter(many, WORDS) == labels.repeat(3, 1, 1)[:5]).float().mean() > 0.99


def test_words_fit_as_transformers_itself_finds(segmenter, pictures):
    transformers = pytest.importorskip("transformers")
    seen = []
    segmenter.model.clip.vision_model.embeddings.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    tokens = segmenter.tokenizer(WORDS, padding=True, return_tensors="pt")
    found = segmenter._logits(pictures, segmenter.model.get_conditional_embeddings(3, **tokens))
    published = transformers.ViTImageProcessorPil(
        size={"height": 352, "width": 352}, image_mean=list(judges.MEAN), image_std=list(judges.DEVIATION), resample=2
    )
    pixels = published(list(((pictures + 1) * 127.5).round().byte()), return_tensors="pt").pixel_values
    torch.testing.assert_close(seen[0], pixels, rtol=0, atol=0.035)  # eight bits a colour, twice
    for index, word in enumerate(WORDS):
        given = segmenter.tokenizer([word] * 2, return_tensors="pt")
        wanted = segmenter.model(pixel_values=seen[0], **given).logits
        torch.testing.assert_close(found[:, index], wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("words", ["dome", [], [""], [3]])
def test_what_are_no_words_is_refused(segmenter, pictures, words):
    with pytest.raises(InputError, match="expected a list such as"):
        segmenter(pictures, words)


def test_only_the_four_files_are_asked_for_and_nothing_is_shown(hub, monkeypatch, clipseg, capfd):
    put(hub, monkeypatch, clipseg)
    judges.segmenter("cpu")
    files = {path.split("/")[-1] for path in hub.requests}
    assert files == {FILES[name].file for name in clipseg}
    assert capfd.readouterr() == ("", "")


def test_a_layout_that_transformers_does_not_know_is_refused(hub, monkeypatch, clipseg):
    config = json.loads(clipseg["config"])
    config["vision_config"]["num_hidden_layers"] = 5
    put(hub, monkeypatch, {**clipseg, "config": json.dumps(config).encode()})
    with pytest.raises(InputError, match=r"looks for clip\.vision_model\.encoder\.layers\.4.* in CLIPSeg"):
        judges.segmenter("cpu")


def test_without_the_extra_the_next_step_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers.*pip install 'rewriter\[eval\]'"):
        judges.segmenter("cpu")


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(InputError, match="expected a probability"):
        judges.segmenter("cpu", threshold=threshold)


def test_offline_is_said(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        judges.lpips("cpu")
