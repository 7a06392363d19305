"""The feature networks with random weights, against torch-fidelity 0.4 and DINOv2's own code with the same weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pggan.metrics import MetricError, Suite
from pggan.metrics import networks as networks_module
from pggan.metrics.networks import CLIP_SHA256, DOWNLOADS, find_weights, load_network, read_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "dinov2_random.npz"
WIDTH, DEPTH = 128, 2  # two heads of 64


def draw_images(count, side=32, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (count, 3, side, side), dtype=np.uint8))


def draw_tensors(shapes, scale=0.05):
    """Return random tensors by name, the same with any version of torch."""
    rng = np.random.RandomState(0)
    tensors = {name: torch.from_numpy(rng.randn(*shape).astype(np.float32)) * scale for name, shape in shapes.items()}
    return {n: t + 1 if n.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else t for n, t in tensors.items()}


def dinov2_weights():
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + 37**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        layers |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH), "norm1": (WIDTH,), "norm2": (WIDTH,)}
        for name, shape in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        shapes |= {f"blocks.{i}.ls{j}.gamma": (WIDTH,) for j in (1, 2)}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    return draw_tensors(shapes)


def clip_weights():
    shapes = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (1 + 7**2, WIDTH),
        "visual.proj": (WIDTH, 96),
        "visual.conv1.weight": (WIDTH, 3, 32, 32),
        "text_projection": (32, 96),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{name}.weight": (WIDTH,), f"visual.{name}.bias": (WIDTH,)}
    for i in range(DEPTH):
        block = f"visual.transformer.resblocks.{i}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{block}.attn.in_proj_bias": (3 * WIDTH,)}
        layers = {"attn.out_proj": (WIDTH, WIDTH), "mlp.c_fc": (4 * WIDTH, WIDTH), "mlp.c_proj": (WIDTH, 4 * WIDTH)}
        for name, shape in (layers | {"ln_1": (WIDTH,), "ln_2": (WIDTH,)}).items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    return draw_tensors(shapes)


@pytest.fixture
def dinov2_file(tmp_path):
    torch.save(dinov2_weights(), tmp_path / "dinov2.pth")
    return str(tmp_path / "dinov2.pth")


def test_dinov2_matches_its_own_code(dinov2_file):
    """The stored features are from facebookresearch/dinov2 (b8931f7) in torch-fidelity 0.4's extractor."""
    network = load_network(dinov2_file, resize="tf1")
    assert (network.kind, network.name, network.dimensions) == ("dinov2", "dinov2-vit-128-14", WIDTH)
    with np.load(GOLDEN) as file:
        expected = torch.from_numpy(file["features"])
    features, logits = network(draw_images(2))
    assert logits is None
    torch.testing.assert_close(features, expected, rtol=0, atol=2e-5)


def test_clip_matches_torch_fidelity(tmp_path):
    module = pytest.importorskip("torch_fidelity.feature_extractor_clip", reason="torch-fidelity is not installed")
    weights = clip_weights()
    half = {n: t.half().float() for n, t in weights.items()}  # torch-fidelity rounds the weights to half precision
    holder = torch.nn.Module()
    holder.state_dict = lambda: dict(half)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: holder)
        theirs = module.FeatureExtractorCLIP("clip-vit-b-32", ["clip"], "weights.pt", verbose=False)
    torch.save(half, tmp_path / "clip.pth")
    ours = load_network(str(tmp_path / "clip.pth"), resize="tf1")
    assert (ours.kind, ours.name, ours.dimensions, ours.input_size) == ("clip", "clip-vit-128-32", 96, 224)
    torch.testing.assert_close(ours(draw_images(2))[0], theirs(draw_images(2))[0], rtol=0, atol=2e-5)


def test_vgg16_matches_torch_fidelity(tmp_path):
    module = pytest.importorskip("torch_fidelity.feature_extractor_vgg16", reason="torch-fidelity is not installed")
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():  # uniform with He et al.'s variance, so that activations neither vanish nor grow
        bound = math.sqrt(6 / tensor[0].numel()) if tensor.ndim > 1 else 0.01
        tensor.data.uniform_(-bound, bound, generator=generator)
    ours = networks_module.VGG16(model.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "torchvision_load_pretrained_vgg16", lambda **_: model)
        theirs = module.FeatureExtractorVGG16("vgg16", ["fc2_relu"])
    expected = theirs(draw_images(2))[0]
    torch.testing.assert_close(ours(draw_images(2))[0], expected, rtol=1e-4, atol=1e-4 * expected.max().item())


def test_results_name_the_network(dinov2_file):
    suite = Suite(["fid", "mind", "prdc", "swd"], features=dinov2_file, log=lambda line: None)
    real, fake = (suite.compute_statistics([draw_images(8, seed=seed)]) for seed in (0, 1))
    results = suite.compare(real, fake)
    assert {"dinov2_fid", "dinov2_mind", "dinov2_precision", "swd"} < results.keys() and "fid" not in results
    settings = suite.settings()
    assert (settings["features"], settings["resize"]) == ("dinov2-vit-128-14", "clean")
    weights = dinov2_weights()
    weights["norm.bias"][0] += 1
    torch.save(weights, dinov2_file)
    assert load_network(dinov2_file).checksum != settings["weights"]


def test_fid_warns_of_the_networks_own_dimensions(dinov2_file):
    lines = []
    Suite(["fid"], features=dinov2_file, log=lines.append).check(100, 5000)
    Suite(["fid"], features=dinov2_file, log=lines.append).check(200, 5000)
    assert len(lines) == 1 and "fewer than its 128 dimensions" in lines[0]


def test_metrics_that_need_another_network_are_skipped(dinov2_file):
    lines = []
    assert list(Suite(["is", "cmmd", "swd"], features=dinov2_file, log=lines.append).metrics) == ["swd"]
    assert lines == [
        "warning: skipping IS: it needs Inception's classifier; use --features inception",
        "warning: skipping CMMD: it needs CLIP's features, not dinov2-vit-128-14's; use --features clip-l",
    ]


def test_weights_are_found_in_the_caches_of_other_tools(tmp_path, monkeypatch):
    monkeypatch.setattr(networks_module, "find_download_folder", lambda: tmp_path / "torch" / "hub" / "checkpoints")
    with pytest.raises(MetricError, match=r"--features dinov2: found no weights; download them: curl -L .*vitl14"):
        find_weights("dinov2")
    for path in (
        tmp_path / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth",
        tmp_path / "clip" / "ViT-B-32.pt",
        tmp_path / "torch" / "hub" / "checkpoints" / f"clip-vit-l-14-336px-{CLIP_SHA256['ViT-L-14-336px']}.pt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [find_weights(name).name for name in ("vgg16", "clip")] == ["vgg16-397923af.pth", "ViT-B-32.pt"]
    assert find_weights("clip-l").name.startswith("clip-vit-l-14-336px")
    assert all(url.endswith((".pth", ".pt")) for url, *_ in DOWNLOADS.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"does not exist; choose from inception, dinov2, clip, clip-l, vgg16, or a file"),
        (b"text", "cannot read weights from .*: damaged, or not a file of tensors"),
        ({"a": 1}, "is not a state dict"),
        ({"a": torch.zeros(2)}, r"--features .*: the weights are not those of a DINOv2 .* or CLIP"),
        (dinov2_weights() | {"register_tokens": torch.zeros(1, 4, WIDTH)}, "without registers"),
    ],
)
def test_unusable_weights_are_refused(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(MetricError, match=message):
        load_network(str(path))


def test_torchscript_is_loaded_only_if_its_checksum_is_known(tmp_path, monkeypatch):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(MetricError, match="TorchScript"):
        read_tensors(tmp_path / "script.pt")
    monkeypatch.setitem(CLIP_SHA256, "test", networks_module.hash_file(tmp_path / "script.pt"))
    assert sorted(read_tensors(tmp_path / "script.pt")) == ["bias", "weight"]
