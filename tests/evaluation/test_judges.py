"""The learned judges: files come from a loopback Hub over HTTP, in their published layouts; weights are random."""

import hashlib
import json
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from loopback import LoopbackHub
from safetensors.torch import save

from rewriter.errors import InputError
from rewriter.evaluation import judges
from rewriter.evaluation.judges import FILES, LPIPS, NONE

VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # its convolutions, as torchvision numbers them
CHANNELS = (64, 128, 256, 512, 512)
WORDS = ["spire", "dome", "sky"]
GOLDEN = """
0.400043 1.407015 1.507347 0.467126 1.228886 0.815071 0.764309 1.303879 1.140861 0.396565 0.380146
1.323824 0.792039 1.051301 1.071935 0.680424 1.263205 0.732324 0.975019 1.429567 0.970935 0.940466
0.848267 1.133342 1.386382 0.920764 1.029858 1.386199 1.426076 0.419602 0.37207 1.238609"""


def put(hub, monkeypatch, files):
    """Serve files under the names of the table, and let the table expect exactly these."""
    sources = {name: FILES[name] for name in files}
    for repository in {source.repository for source in sources.values()}:
        inside = {sources[name].file: data for name, data in files.items() if sources[name].repository == repository}
        revision = hub.add("model", repository, inside).at().oid
        for name in [name for name, source in sources.items() if source.repository == repository]:
            digest = hashlib.sha256(files[name]).hexdigest()
            sources[name] = replace(sources[name], revision=revision, sha256=digest)
    monkeypatch.setattr(judges, "FILES", {**FILES, **sources})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        yield hub


@pytest.fixture(scope="module")
def trunk():
    """A classifier's weights in torchvision's layout; its head must not be read."""
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


@pytest.fixture(scope="module")
def distance(trunk, heads):
    """LPIPS with these weights, without a Hub."""
    made = LPIPS().eval()
    made.features.load_state_dict({key[9:]: value for key, value in trunk.items() if key.startswith("features.")})
    made.heads.load_state_dict(heads)
    return made


@pytest.fixture(scope="module")
def pictures():
    """Two smooth pictures of 64 px."""
    coarse = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return F.interpolate(coarse, (64, 64), mode="bicubic").tanh()


def test_every_file_is_pinned_by_revision_and_hash():
    for source in FILES.values():
        assert len(source.revision) == 40 and len(source.sha256) == 64
        assert source.file.endswith((".safetensors", ".json", ".txt"))


def test_distance_does_not_depend_on_the_batch_and_clamps_values(distance, pictures):
    pictures = pictures[..., ::4, ::4]  # 16 px, the least
    many = pictures.repeat(3, 1, 1, 1)[:5]  # more than a batch
    last = distance(many[4:], many[4:].flip(3))
    torch.testing.assert_close(distance(many, many.flip(3))[4:], last, rtol=1e-4, atol=1e-5)
    assert torch.equal(distance(pictures * 9, pictures), distance((pictures * 9).clamp(-1, 1), pictures))
    assert torch.equal(distance(pictures, pictures), torch.zeros(2, 16, 16))


def test_distance_equals_lpips_0_1_4(distance, pictures):
    """Figures that the package computed for these weights and pictures (net="vgg", spatial=True)."""
    expected = torch.tensor([float(figure) for figure in GOLDEN.split()])
    found = distance(pictures, pictures.flip(3))[:, ::21, ::21].flatten()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_files_are_downloaded_once_with_progress(hub, monkeypatch, trunk, heads, distance, pictures):
    put(hub, monkeypatch, {"trunk": save(trunk), "heads": save(heads)})
    steps = []
    judge = judges.lpips("cpu", lambda done, of: steps.append((done, of)))
    assert torch.equal(judge(pictures, pictures.flip(3)), distance(pictures, pictures.flip(3)))
    assert any(done == of for done, of in steps) and len({of for _, of in steps}) == 2
    requests = len(hub.requests)
    judges.lpips("cpu")
    assert len(hub.requests) == requests


def test_file_with_another_hash_is_refused(hub, monkeypatch):
    put(hub, monkeypatch, {"trunk": b"something else"})
    served = replace(judges.FILES["trunk"], sha256=FILES["trunk"].sha256)
    monkeypatch.setattr(judges, "FILES", {**FILES, "trunk": served})
    with pytest.raises(InputError, match=r"vgg16.tv_in1k/model.safetensors.*57b0"):
        judges.lpips("cpu")


def test_missing_file_and_network_are_reported(hub, monkeypatch):
    with pytest.raises(InputError, match=r"vgg16.tv_in1k/model.safetensors from timm/vgg16.tv_in1k"):
        judges.lpips("cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        judges.lpips("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CLIPSeg's files as transformers writes them, tiny and random, in the published layout."""
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
        model.decoder.transposed_convolution[-1].weight *= 0.1  # so that probabilities are not only 0 and 1,
        model.decoder.film_mul.weight *= 10  # and words matter
    model.save_pretrained(folder)
    return {
        "vocabulary": json.dumps({piece: index for index, piece in enumerate(pieces)}).encode(),
        "merges": b"#version: 0.2\ns p\nd o\n",
        "config": (folder / "config.json").read_bytes(),
        "model": (folder / "model.safetensors").read_bytes(),
    }


@pytest.fixture
def clipseg(hub, monkeypatch, files):
    put(hub, monkeypatch, files)
    return judges.clipseg("cpu")


def test_labels_depend_on_threshold_and_words_but_not_on_order_or_batch(clipseg, pictures):
    assert set(clipseg(pictures, WORDS).unique().tolist()) <= {NONE, 0, 1, 2}
    clipseg.threshold = 1.1
    assert (clipseg(pictures, WORDS) == NONE).all()
    clipseg.threshold = 0.0
    labels, many = clipseg(pictures, WORDS), pictures.repeat(3, 1, 1, 1)[:5]
    assert labels.shape == (2, 64, 64) and (labels >= 0).all() and len(labels.unique()) > 1
    assert ((2 - clipseg(pictures, WORDS[::-1])) == labels).float().mean() > 0.99
    assert (clipseg(many, WORDS) == labels.repeat(3, 1, 1)[:5]).float().mean() > 0.99


def test_logits_equal_those_of_transformers(clipseg, pictures):
    transformers, inputs, found = pytest.importorskip("transformers"), [], []
    clipseg.model.clip.vision_model.embeddings.register_forward_pre_hook(lambda layer, given: inputs.append(given[0]))
    hook = clipseg.model.decoder.register_forward_hook(lambda layer, given, output: found.append(output.logits))
    clipseg(pictures, WORDS)
    hook.remove()
    published = transformers.ViTImageProcessorPil(
        size={"height": 352, "width": 352}, image_mean=list(judges.MEAN), image_std=list(judges.DEVIATION), resample=2
    )
    pixels = published(list(((pictures + 1) * 127.5).round().byte()), return_tensors="pt").pixel_values
    torch.testing.assert_close(inputs[0], pixels, rtol=0, atol=0.035)  # rounded to eight bits, twice
    for word, logits in zip(WORDS, found, strict=True):
        tokens = clipseg.tokenizer([word] * 2, return_tensors="pt")
        torch.testing.assert_close(logits, clipseg.model(pixel_values=inputs[0], **tokens).logits, rtol=1e-4, atol=1e-3)


def test_only_four_files_are_requested_and_nothing_is_printed(hub, monkeypatch, files, capfd):
    put(hub, monkeypatch, files)
    judges.clipseg("cpu")
    assert {path.split("/")[-1] for path in hub.requests} == {FILES[name].file for name in files}
    assert capfd.readouterr() == ("", "")


def test_unknown_layout_is_refused(hub, monkeypatch, files):
    config = json.loads(files["config"])
    config["vision_config"]["num_hidden_layers"] = 5
    put(hub, monkeypatch, {**files, "config": json.dumps(config).encode()})
    with pytest.raises(InputError, match=r"looks for clip\.vision_model\.encoder\.layers\.4.* in CLIPSeg"):
        judges.clipseg("cpu")


def test_missing_extra_is_reported_with_the_next_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers.*pip install 'rewriter\[eval\]'"):
        judges.clipseg("cpu")
