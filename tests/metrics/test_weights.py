"""Features with published weights: files of random weights from a local server, networks against formulas by hand."""

import functools
import hashlib
import io
import math
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.data import DataSet, Split
from common.metrics.features import FEATURES, Wanted, choose, clip, dinov2, lenet, speech, weights
from common.metrics.features.base import Classifying
from common.metrics.features.inception import Inception, InceptionClean
from common.metrics.features.published import resized
from common.metrics.features.weights import PinnedWeights
from common.metrics.inception_score import InceptionScore, inception_score
from common.refusal import Refusal
from tests.evidence import evidence_of


class Server:
    """Serves one body; counts the requests."""

    def __init__(self) -> None:
        self.body, self.sent, self.status, self.requests = b"", None, 200, 0
        self.stalled = threading.Event()  # while it is not set, nothing comes behind the headers
        self.stalled.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                server.stalled.wait()
                self.wfile.write(server.body[: server.sent])

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/weights.pth"

    def pin(self, name: str = "weights.pth") -> PinnedWeights:
        """What it serves now, pinned."""
        return PinnedWeights(name, hashlib.sha256(self.body).hexdigest(), "us", self.url, len(self.body))


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def server(served, monkeypatch) -> Server:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(weights, "download", functools.partial(weights.download, silence=0.3))
    served.body, served.sent, served.status, served.requests = b"weights" * 10_000, None, 200, 0
    return served


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def wanted(folder: Path, shape: tuple[int, ...] = (3, 16, 16), **of_data: object) -> Wanted:
    rng = torch.Generator().manual_seed(0)
    if len(shape) == 3:
        x = torch.randint(0, 256, (12, *shape), generator=rng, dtype=torch.uint8)
    else:
        x = torch.rand(12, *shape, generator=rng) - 0.5
    part = Split(x, torch.zeros(12, dtype=torch.int64))
    return Wanted(DataSet(part, part, **of_data), folder / "weights", folder / "cache")


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once(tmp_path, server):
    folder, pinned = tmp_path / "new" / "weights", server.pin()
    assert pinned.find(folder) is None
    assert server.requests == 0
    assert pinned.path(folder).read_bytes() == server.body
    assert [path.name for path in folder.iterdir()] == ["weights.pth"]
    assert pinned.path(folder) == pinned.find(folder) == folder / "weights.pth"
    assert server.requests == 1


@pytest.mark.parametrize("fault", ["other", "cut", "missing", "long", "silent", "gone", "nowhere"])
def test_a_download_that_fails_leaves_nothing(tmp_path, server, fault):
    pinned = server.pin()
    if fault == "other":
        server.body = b"x" * len(server.body)
    elif fault == "cut":
        server.sent = 100
    elif fault == "missing":
        server.status = 404
    elif fault == "long":
        server.body += b"x"
    elif fault == "silent":
        server.stalled.clear()
    elif fault == "gone":
        pinned = PinnedWeights("weights.pth", pinned.sha256, "us", "http://127.0.0.1:9/weights.pth", 10)
    else:
        pinned = PinnedWeights("weights.pth", pinned.sha256, "the authors")
    try:
        with pytest.raises(Refusal) as refused:
            pinned.path(tmp_path / "weights")
    finally:
        server.stalled.set()
    line = refused.value.line({"features": "features"})
    for part in ("--features needs weights.pth", str(tmp_path / "weights"), pinned.sha256, "--weights_dir"):
        assert part in line
    why = {"other": "another file, its SHA-256 is", "cut": "incomplete", "missing": "404", "long": "larger than 70,000"}
    assert why.get(fault, {"silent": "imed out", "gone": "refused"}.get(fault, "from the authors")) in line
    assert fault == "nowhere" or pinned.url in line
    assert "Max retries" not in line  # but what is the matter
    assert not (tmp_path / "weights").exists() or not list((tmp_path / "weights").iterdir())


def test_a_file_that_is_there_is_checked_and_kept(tmp_path, server):
    pinned = server.pin()
    (tmp_path / pinned.name).write_bytes(b"damaged")
    with pytest.raises(Refusal, match=r"is damaged, or another file under that name: its SHA-256 is .*fetched again"):
        pinned.path(tmp_path)
    assert (tmp_path / pinned.name).read_bytes() == b"damaged"
    assert server.requests == 0


def test_a_package_may_bring_the_file(tmp_path, monkeypatch):
    (tmp_path / "brings").mkdir()
    for name in ("__init__.py", "file.pt"):
        (tmp_path / "brings" / name).write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    pinned = PinnedWeights("x.pt", hashlib.sha256(b"").hexdigest(), "us", inside=("brings", "file.pt"))
    assert pinned.path(tmp_path / "weights") == tmp_path / "brings" / "file.pt"
    assert PinnedWeights("x.pt", "", "us", inside=("brings_not", "file.pt")).find(tmp_path) is None


def test_auto_fetches_nothing_and_takes_no_large_one(tmp_path, server, monkeypatch):
    pinned = server.pin()
    for kind in FEATURES.values():
        if any(file.url for file in kind.weights):
            monkeypatch.setattr(kind, "weights", (pinned,))
    order = wanted(tmp_path, (1, 400), value_range=(-1.0, 1.0), sample_rate=8000)
    assert FEATURES["speech"].lacking(order).startswith(f"needs weights.pth from {server.url}")
    assert choose("auto", order).name == "pixels"
    pictures = wanted(tmp_path)
    before = choose("auto", pictures).name
    pinned.path(tmp_path / "weights")
    assert choose("auto", pictures).name == before
    assert server.requests == 1
    for name in ("inception", "inception-clean", "dinov2", "clip"):
        assert not FEATURES[name].lacking(pictures)
        with pytest.raises(Refusal, match=f"features {name} reads images"):
            choose(name, order)
    with pytest.raises(Refusal, match="features speech reads recordings of speech"):
        choose("speech", pictures)


def test_lenet_reads_the_file_of_its_authors(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    rng, folder = np.random.default_rng(0), tmp_path / "weights"
    folder.mkdir()
    kernels = {"conv2d": (5, 5, 1, 6), "conv2d_1": (5, 5, 6, 16), "dense": (576, 120), "dense_1": (120, 84)}
    arrays = {}
    for name, shape in {**kernels, "dense_2": (84, 10)}.items():
        arrays[f"{name}/kernel"] = rng.normal(0, 0.2, shape).astype(np.float32)
        arrays[f"{name}/bias"] = rng.normal(0, 0.2, shape[-1]).astype(np.float32)
    with h5py.File(folder / "model-best.h5", "w") as file:
        for name, array in arrays.items():
            file[f"model_weights/{name.split('/')[0]}/{name}:0"] = array
    np.savez(folder / "lenet5.npz", **arrays)
    found = []
    for file in (lenet.ARRAYS, lenet.KERAS):
        content = (folder / file.name).read_bytes()
        monkeypatch.setattr(
            lenet.LeNet, "weights", (PinnedWeights(file.name, hashlib.sha256(content).hexdigest(), ""),)
        )
        order = wanted(tmp_path, (1, 28, 28), num_classes=10)
        found.append(choose("lenet", order)(order.data.to_unit_range(order.data.train.images)))
    assert torch.equal(*found)
    assert found[0].std() > 0.1


# -- Inception --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_inception() -> bytes:
    """Random weights under the names of the published file."""
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for name, value in network.state_dict().items():
        if "bn" in name and value.is_floating_point():
            value.add_(0.2 * torch.rand_like(value))
    return saved({name: value.half() for name, value in network.state_dict().items()})


def test_inception_is_the_network_of_2015(tmp_path, server, of_inception, monkeypatch):
    from common.metrics.features.inception_network import AfterAverage

    server.body = of_inception
    for kind in (Inception, InceptionClean):
        monkeypatch.setattr(kind, "weights", (server.pin(),))
    order = wanted(tmp_path)
    features, clean = choose("inception", order), choose("inception-clean", order)
    assert server.requests == 1
    assert features.identity != clean.identity
    assert hashlib.sha256(of_inception).hexdigest()[:12] in features.identity
    x = order.data.to_unit_range(order.data.train.images[:2])
    points = features(x)
    assert points.shape == (2, 2048)
    assert torch.allclose(pickle.loads(pickle.dumps(features))(x), points)  # other processes get it
    # the last two blocks by hand: averages without padding, then a maximum
    caught = {}
    for name in ("Mixed_7a", "Mixed_7b", "Mixed_7c"):
        getattr(features.network, name).register_forward_hook(lambda *given, name=name: caught.update({name: given[2]}))
    features(x)
    for before, name, pooled in (
        ("Mixed_7a", "Mixed_7b", functools.partial(F.avg_pool2d, count_include_pad=False)),
        ("Mixed_7b", "Mixed_7c", F.max_pool2d),
    ):
        last = getattr(features.network, name).branch_pool
        expected = F.relu(last.bn(last.conv(pooled(caught[before], kernel_size=3, stride=1, padding=1))))
        assert torch.allclose(caught[name][:, -192:], expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(caught["Mixed_7c"].mean((2, 3)), points, rtol=1e-4, atol=1e-5)
    padded = {name for name, module in features.network.named_modules() if isinstance(module, AfterAverage)}
    assert padded == {f"Mixed_{name}.branch_pool" for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b")}
    assert features.logits(points).shape == (2, 1008)
    matrix = torch.load(io.BytesIO(of_inception), weights_only=True)["fc.weight"].float()
    assert torch.allclose(features.logits(points), points @ matrix.T)


def test_images_are_resized_as_the_published_figures_were():
    images = torch.randint(0, 256, (2, 3, 20, 33), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    # clean-fid: every channel by itself, in float
    planes = [Image.fromarray(plane.numpy().astype(np.float32)) for plane in images[0]]
    expected = np.stack(
        [np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255) for plane in planes]
    )
    assert np.allclose(InceptionClean.prepared(images)[0] * 128 + 128, expected, atol=1e-2)
    # pytorch-fid: no antialiasing
    shrunk = Inception.prepared(F.interpolate(images.float(), (598, 598)).to(torch.uint8))
    assert torch.allclose(shrunk[..., 0, 0], 2 * images[..., 0, 0].float() / 255 - 1)
    # CLIP and DINOv2: whole levels by Pillow
    picture = Image.fromarray(images[0].movedim(0, -1).numpy())
    expected = np.asarray(picture.resize((224, 70), Image.Resampling.BICUBIC)).astype(float)
    difference = np.abs(resized(images, (70, 224))[0].movedim(0, -1).numpy() - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.02


def test_inception_score_in_closed_form():
    assert inception_score(torch.zeros(50, 7)) == pytest.approx(1)
    sure = 1e4 * F.one_hot(torch.arange(60) % 6).double()
    assert inception_score(sure, splits=1) == pytest.approx(6)
    halves = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log().repeat(30, 1)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(halves, splits=1) == pytest.approx(2 * math.exp(-entropy))


class Answers(FEATURES["pixels"], Classifying):
    """Pixels, and answers that are made of them."""

    name = "answers"

    def logits(self, points: Tensor) -> Tensor:
        return 2 * points[:, :5]


def test_inception_score_is_of_answers(tmp_path, monkeypatch):
    monkeypatch.setitem(FEATURES, "answers", Answers)
    x = torch.randint(0, 256, (80, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    part = Split(x, torch.arange(80) % 2)
    data = DataSet(part, part, num_classes=2)
    samples = data.to_unit_range(x)
    evidence = evidence_of(samples, part.labels.numpy(), data, tmp_path)
    metric = InceptionScore()
    with pytest.raises(Refusal, match=r"metrics is needs the answers .* give --features inception"):
        metric(evidence)
    metric.features = "answers"
    found = metric(evidence)
    expected = inception_score(2 * samples.flatten(1)[:, :5])
    assert found["is@answers"] == pytest.approx(expected)
    assert found["is_real@answers"] == pytest.approx(expected)
    assert found["is_low@answers"] < expected < found["is_high@answers"]
    assert metric.of_class(1, evidence)["is@answers"] == pytest.approx(
        inception_score(2 * samples[1::2].flatten(1)[:, :5])
    )
    assert metric.lines(found, evidence)[0].startswith("is")


# -- transformers -----------------------------------------------------------------------------------------------------


def drawn(*shape: int, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(shape)


def layer(name: str, outputs: int, inputs: int | None = None) -> dict[str, Tensor]:
    """A linear layer, or one that normalises."""
    weight = 1 + drawn(outputs) if inputs is None else drawn(outputs, inputs)
    return {f"{name}.weight": weight, f"{name}.bias": drawn(outputs)}


def by_hand(x: Tensor, parts: list[tuple[Tensor, ...]], heads: int, activation, eps: float) -> Tensor:
    """Blocks of a transformer, from their formulas; tokens (N, D)."""
    width = x.shape[1]
    for norm1, bias1, into, into_bias, out, out_bias, norm2, bias2, first, first_bias, second, second_bias in parts:
        normal = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + eps).sqrt() * norm1 + bias1
        queries, keys, values = (normal @ into.T + into_bias).reshape(-1, 3, heads, width // heads).permute(1, 2, 0, 3)
        seen = (queries @ keys.mT / math.sqrt(width // heads)).softmax(-1) @ values
        x = x + seen.permute(1, 0, 2).reshape(-1, width) @ out.T + out_bias
        normal = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + eps).sqrt() * norm2 + bias2
        x = x + activation(normal @ first.T + first_bias) @ second.T + second_bias
    return x


def test_dinov2_is_the_published_network(tmp_path, server, monkeypatch):
    torch.manual_seed(0)
    width, heads = 128, 2
    state = {"cls_token": drawn(1, 1, width), "pos_embed": drawn(1, 1 + 37**2, width), "mask_token": drawn(1, width)}
    state |= {"patch_embed.proj.weight": drawn(width, 3, 14, 14), "patch_embed.proj.bias": drawn(width)}
    state |= layer("norm", width)
    parts = []
    for i in range(2):
        names = [("norm1",), ("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("norm2",)]
        names += [("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)]
        for name, *sizes in names:
            state |= layer(f"blocks.{i}.{name}", *(sizes or [width]))
        state |= {f"blocks.{i}.ls{half}.gamma": 1 + drawn(width) for half in (1, 2)}
        row = [state[f"blocks.{i}.{name}.{part}"] for name, *_ in names for part in ("weight", "bias")]
        for place, half in ((4, 1), (10, 2)):
            gamma = state[f"blocks.{i}.ls{half}.gamma"]
            row[place], row[place + 1] = gamma.diag() @ row[place], gamma * row[place + 1]
        parts.append(tuple(row))
    server.body = saved(state)
    monkeypatch.setattr(dinov2.DinoV2, "weights", (server.pin(),))
    order = wanted(tmp_path, (3, 224, 224))
    x = order.data.to_unit_range(order.data.train.images[:1])
    mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    image = ((x + 1) / 2 - mean) / deviation
    patches = F.unfold(image, 14, stride=14)[0].T @ state["patch_embed.proj.weight"].flatten(1).T
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    places = F.interpolate(grid, scale_factor=16.1 / 37, mode="bicubic", recompute_scale_factor=False)
    tokens = torch.cat([state["cls_token"][0], patches + state["patch_embed.proj.bias"]])
    tokens = tokens + torch.cat([state["pos_embed"][0, :1], places[0].flatten(1).T])
    expected = F.layer_norm(by_hand(tokens, parts, heads, F.gelu, 1e-6)[0], (width,), *layer_of(state, "norm"), 1e-6)
    features = choose("dinov2", order)
    assert torch.allclose(features(x)[0], expected, rtol=1e-3, atol=1e-4)
    assert torch.allclose(pickle.loads(pickle.dumps(features))(x), features(x), atol=1e-5)


def layer_of(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def test_clip_is_the_published_network(tmp_path, server, monkeypatch):
    torch.manual_seed(0)
    width, heads = 128, 2
    own = {"embeddings.class_embedding": drawn(width), "embeddings.position_embedding.weight": drawn(50, width)}
    own |= {"embeddings.patch_embedding.weight": drawn(width, 3, 32, 32, scale=0.02)}
    own |= {"embeddings.position_ids": torch.arange(50).unsqueeze(0)}
    own |= layer("pre_layrnorm", width) | layer("post_layernorm", width)
    parts = []
    for i in range(2):
        place = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            own |= layer(f"{place}.self_attn.{name}", width, width)
        own |= layer(f"{place}.layer_norm1", width) | layer(f"{place}.layer_norm2", width)
        own |= layer(f"{place}.mlp.fc1", 4 * width, width) | layer(f"{place}.mlp.fc2", width, 4 * width)
        three = [layer_of(own, f"{place}.self_attn.{name}_proj") for name in "qkv"]
        stacked = [torch.cat(values) for values in zip(*three, strict=True)]
        rest = ("self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2")
        ends = [value for name in rest for value in layer_of(own, f"{place}.{name}")]
        parts.append((*layer_of(own, f"{place}.layer_norm1"), *stacked, *ends))
    state = {f"vision_model.{name}": value for name, value in own.items()}
    state |= {"visual_projection.weight": drawn(8, width), "logit_scale": torch.tensor(4.6)}
    state |= layer("text_model.encoder.layers.0.mlp.fc1", 4, 4)
    server.body = saved(state)
    monkeypatch.setattr(clip.Clip, "weights", (server.pin(),))
    order = wanted(tmp_path, (3, 224, 244))  # the middle is cut out
    x = order.data.to_unit_range(order.data.train.images[:1])
    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (clip.MEAN, clip.DEVIATION))
    image = (((x + 1) / 2 - mean) / deviation)[..., 10:234]
    patches = F.unfold(image, 32, stride=32)[0].T @ own["embeddings.patch_embedding.weight"].flatten(1).T
    tokens = torch.cat([own["embeddings.class_embedding"][None], patches]) + own["embeddings.position_embedding.weight"]
    tokens = F.layer_norm(tokens, (width,), *layer_of(own, "pre_layrnorm"))
    first = by_hand(tokens, parts, heads, lambda x: x * (1.702 * x).sigmoid(), 1e-5)[0]
    expected = F.layer_norm(first, (width,), *layer_of(own, "post_layernorm")) @ state["visual_projection.weight"].T
    assert torch.allclose(choose("clip", order)(x)[0], expected, rtol=1e-3, atol=1e-4)


# -- speech -----------------------------------------------------------------------------------------------------------


def test_mel_bands_are_those_of_librosa():
    """Golden: librosa 0.11.0, ``librosa.filters.mel(sr=16000, n_fft=400, n_mels=40)``."""
    filters = speech.mel_filters()
    assert filters.shape == (40, 201)
    assert filters.sum(1)[[0, 10, 20, 39]].tolist() == pytest.approx(
        [0.024809, 0.024809, 0.0252198, 0.0249788], rel=1e-4
    )
    assert filters.amax(1)[[0, 10, 39]].tolist() == pytest.approx([0.0124045, 0.0118795, 0.00172494], rel=1e-4)
    tone = torch.sin(2 * math.pi * 800 / 16_000 * torch.arange(8000))  # 800 Hz, the 20th frequency
    power = speech.mel_spectrograms(tone.unsqueeze(0))
    assert power.shape == (1, 51, 40)
    assert power[0, 25].argmax() == filters[:, 20].argmax() == 10
    # inside, a sine of amplitude 1 under a window w has |sum w / 2|^2 = 10,000 at its frequency, a quarter beside it
    assert float(power[0, 25, 10]) == pytest.approx(
        float(filters[10, 19:22] @ torch.tensor([2500.0, 10_000, 2500])), rel=1e-3
    )


def test_speech_is_embedded_in_parts(tmp_path, server, monkeypatch):
    torch.manual_seed(0)
    network = speech.SpeakerEncoder()
    server.body = saved({"step": 1, "model_state": network.state_dict() | {"similarity_weight": torch.ones(1)}})
    monkeypatch.setattr(speech.Speech, "weights", (server.pin(),))
    order = wanted(tmp_path, (1, 24_000), value_range=(-1.0, 1.0), sample_rate=8000)
    features = choose("speech", order)
    # parts of 160 frames begin every 77; of 2.5 s the third would hold 96 only, of 3 s it holds 146
    assert [speech.parts_of(count) for count in (100, 40_000, 48_000)] == [[0], [0, 77], [0, 77, 154]]
    wave = 0.1 * torch.sin(torch.arange(24_000) / 8).reshape(1, 1, -1)
    both = torch.cat([wave, 3 * wave, wave * 0])
    points = features(both)
    assert points.shape == (3, 256)
    assert points.isfinite().all()
    assert points.square().sum(1).tolist() == pytest.approx([1, 1, 1], rel=1e-4)
    assert (points[0] - points[1]).abs().max() > 1e-6  # power, not its logarithm
    quiet = features(torch.cat([wave / 100, wave / 1000]))  # raised to one loudness
    assert torch.allclose(quiet[0], quiet[1], atol=1e-5)
    slow = wanted(tmp_path, (1, 48_000), value_range=(-1.0, 1.0), sample_rate=16_000)
    twice = 0.1 * torch.sin(torch.arange(48_000) / 16).reshape(1, 1, -1)
    assert torch.allclose(choose("speech", slow)(twice), points[:1], atol=1e-3)
    assert choose("auto", order).name == "speech"  # there are no classes, and the file is there
