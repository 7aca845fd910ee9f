"""Weights arrive complete and unchanged, or not at all."""

import hashlib
import os
import pickle
import sys
import urllib.error
from collections import OrderedDict
from enum import Enum
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pgsearch.errors import InvalidData
from pgsearch.models import check_weights, input_statistics, weights_fingerprint
from pgsearch.models.backbones import build_backbone
from tests.models import models

DATA = Path(
    os.environ.get("PGSEARCH_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
LITE0 = DATA / "weights" / "tf_efficientnet_lite0.safetensors"


def build(weights, backbone="digits_resnet"):
    return models.build(backbone, weights, num_classes=3, frozen_stages=1)


def digits_state(seed=11):
    """The state of a network whose every number differs from a fresh one's."""
    torch.manual_seed(seed)
    state = build_backbone("digits_resnet").network.state_dict()
    return OrderedDict(
        (key, torch.rand_like(value) + 0.5 if value.is_floating_point() else value + 7)
        for key, value in state.items()
    )


def assert_loaded(model, state):
    loaded = model.backbone.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(loaded[key], value), key


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_weights_make_the_round_trip(tmp_path, suffix):
    state, path = digits_state(), tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    check_weights("digits_resnet", path)
    assert_loaded(build(path), state)
    assert_loaded(build(str(path)), state)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module.", "module. in state_dict"])
def test_common_wrappers_are_opened(tmp_path, wrap):
    state, path = digits_state(), tmp_path / "net.pth"
    contents = state
    if "module." in wrap:
        contents = {f"module.{key}": value for key, value in state.items()}
    if "state_dict" in wrap:
        contents = {"epoch": 90, "state_dict": contents}
    if wrap == "model":
        contents = {"model": contents, "lr": 0.1}
    torch.save(contents, path)
    assert_loaded(build(path), state)


def test_classifier_of_the_file_is_left_out_and_batch_counters_may_be_missing(tmp_path):
    import torchvision.models

    torch.manual_seed(2)
    published = torchvision.models.resnet18(weights=None)
    state = {k: v for k, v in published.state_dict().items() if "num_batches" not in k}
    assert "fc.weight" in state
    torch.save(state, tmp_path / "resnet18.pth")
    model = build(tmp_path / "resnet18.pth", "resnet18").eval()
    images = torch.randn(2, 3, 64, 64)
    published.fc = torch.nn.Identity()
    torch.testing.assert_close(model.backbone(images), published.eval()(images))


def test_no_weights_are_random_by_choice():
    check_weights("digits_resnet", None)
    assert weights_fingerprint(None) == "random"


def test_fingerprint_is_that_of_the_file(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(digits_state(), path)
    assert weights_fingerprint(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    first = weights_fingerprint(str(path))
    torch.save(digits_state(seed=12), path)
    assert weights_fingerprint(path) != first
    assert weights_fingerprint("torchvision:IMAGENET1K_V1") == "torchvision:IMAGENET1K_V1"


def spoilt(state, spoil):
    key = "stages.1.residual.0.weight"
    if spoil == "missing":
        del state[key]
    elif spoil == "not expected":
        state["stages.9.weight"] = torch.zeros(1)
    elif spoil == "of another shape":
        state[key] = state[key][:, :8]
    elif spoil == "not of floating point":
        state[key] = state[key].to(torch.int8)
    elif spoil == "not finite":
        state[key][0, 0, 0, 0] = torch.nan
    return state


@pytest.mark.parametrize(
    "spoil",
    ["missing", "not expected", "of another shape", "not of floating point", "not finite"],
)
def test_weights_that_do_not_fit_are_refused_with_file_key_and_fix(tmp_path, spoil):
    path = tmp_path / "net.pth"
    torch.save(spoilt(digits_state(), spoil), path)
    check_weights("digits_resnet", path)  # sees the file, not the keys
    key = r"stages\.9\.weight" if spoil == "not expected" else r"stages\.1\.residual\.0\.weight"
    with pytest.raises(InvalidData, match=rf"net\.pth does not fit.*{spoil}: {key}.*Give weights"):
        build(path)


def test_weights_of_another_backbone_are_refused_and_only_the_first_keys_shown(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(digits_state(), path)
    with pytest.raises(InvalidData, match=r"missing: conv1\.weight, \S+, \S+ and \d+ more") as info:
        build(path, "resnet18")
    assert len(str(info.value)) < 1000


class Bomb:
    """A pickle that writes a file when it is opened carelessly."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "boom"))


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, write):
    path, target = tmp_path / "net.pth", tmp_path / "boom"
    write({"state_dict": digits_state(), "extra": Bomb(target)}, path)
    with pytest.raises(InvalidData, match=r"net\.pth.*save it anew"):
        build(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert target.exists(), "the bomb of this test does not work"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["half", "text", "flipped header", "other format"])
def test_damaged_and_foreign_files_are_refused(tmp_path, suffix, damage):
    path = tmp_path / f"net{suffix}"
    saves = [lambda p: torch.save(digits_state(), p), lambda p: save_file(digits_state(), p)]
    saves[(suffix == ".safetensors") != (damage == "other format")](path)
    raw = bytearray(path.read_bytes())
    if damage == "half":
        raw = raw[: len(raw) // 2]
    elif damage == "text":
        raw = b"<html>404 not found</html>"
    elif damage == "flipped header":
        raw[:64] = bytes(255 - byte for byte in raw[:64])
    path.write_bytes(raw)
    check_weights("digits_resnet", path)
    with pytest.raises(InvalidData, match=rf"net\{suffix}: damaged"):
        build(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([torch.zeros(2)], "holds list"),
        ({}, "holds dict"),
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, "not only tensors, but also epoch, net"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path, contents, message):
    torch.save(contents, tmp_path / "net.pth")
    with pytest.raises(InvalidData, match=message):
        build(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "use", [build, lambda path: check_weights("digits_resnet", path), weights_fingerprint]
)
def test_absent_empty_unreadable_and_unknown_files_are_named_before_anything_is_read(tmp_path, use):
    with pytest.raises(InvalidData, match=r"absent\.pth: there is no such file.*weights to random"):
        use(tmp_path / "absent.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(InvalidData, match=r"empty\.pth: the file is empty"):
        use(tmp_path / "empty.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(InvalidData, match=r"folder\.pth cannot be read: Is a directory"):
        use(tmp_path / "folder.pth")
    (tmp_path / "net.onnx").write_text("x")
    with pytest.raises(InvalidData, match=r"net\.onnx: the suffix .*\.safetensors, \.pth"):
        use(tmp_path / "net.onnx")


# torchvision's published files, from a file:// address in place of the network.


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published resnet18 under its hash, an empty cache, and torchvision pointing at both."""
    import torchvision.models
    from torchvision.models import Weights, WeightsEnum

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.manual_seed(5)
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "raw.pth")
    digest = hashlib.sha256((tmp_path / "raw.pth").read_bytes()).hexdigest()
    source = (tmp_path / "raw.pth").rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    entry = Weights(url=source.as_uri(), transforms=None, meta={})
    catalogue = Enum("Catalogue", {"IMAGENET1K_V1": entry}, type=WeightsEnum)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: catalogue)
    return network, source, tmp_path / "cache" / "hub" / "checkpoints" / source.name


def test_torchvision_weights_are_fetched_once_by_the_check_and_then_loaded(published):
    network, source, cached = published
    check_weights("resnet18", "torchvision:IMAGENET1K_V1")
    assert cached.exists()
    source.unlink()
    check_weights("resnet18", "torchvision:IMAGENET1K_V1")
    model = build("torchvision:IMAGENET1K_V1", "resnet18")
    assert torch.equal(model.backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)


def test_torchvision_weights_offline_name_file_place_and_way_out(published):
    _, source, cached = published
    source.unlink()
    for use in (check_weights, lambda backbone, weights: build(weights, backbone)):
        with pytest.raises(InvalidData) as info:
            use("resnet18", "torchvision:IMAGENET1K_V1")
        message = str(info.value)
        assert f"Fetch {source.name} from {source.as_uri()}" in message
        assert f"put it at {cached}" in message
        assert "give its path as weights" in message
    assert not cached.exists()


def test_torchvision_weights_offline_with_the_real_catalogue(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(InvalidData, match=r"no route.*Fetch resnet50-0676ba61\.pth from https://"):
        check_weights("resnet50", "torchvision:IMAGENET1K_V1")


def test_torchvision_file_that_is_not_the_published_one_is_refused(published):
    _, source, cached = published
    check_weights("resnet18", "torchvision:IMAGENET1K_V1")
    raw = bytearray(cached.read_bytes())
    raw[len(raw) // 2] ^= 1
    cached.write_bytes(raw)
    with pytest.raises(InvalidData, match=r"not the file that torchvision published: delete it"):
        build("torchvision:IMAGENET1K_V1", "resnet18")
    cached.unlink()
    source.write_bytes(raw)
    with pytest.raises(InvalidData, match=r"cannot be downloaded \(invalid hash value"):
        build("torchvision:IMAGENET1K_V1", "resnet18")
    assert not cached.exists()


def test_torchvision_names_are_checked():
    with pytest.raises(
        InvalidData, match=r"no weights NONSENSE for resnet50: choose .*IMAGENET1K_V2"
    ):
        check_weights("resnet50", "torchvision:NONSENSE")
    with pytest.raises(InvalidData, match=r"not for digits_resnet: give the path of a file"):
        check_weights("digits_resnet", "torchvision:IMAGENET1K_V1")


@pytest.mark.skipif(not LITE0.exists(), reason=f"needs {LITE0.name} in PGSEARCH_TEST_DATA")
def test_real_imagenet_weights_give_the_features_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    model = build(LITE0, "timm:tf_efficientnet_lite0").eval()
    reference = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, checkpoint_path=str(LITE0)
    ).eval()
    mean, std = input_statistics("timm:tf_efficientnet_lite0")
    assert mean == reference.default_cfg["mean"]
    assert std == reference.default_cfg["std"]
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        features_BD = reference.forward_head(reference.forward_features(images), pre_logits=True)
        assert torch.equal(model.backbone(images), features_BD)
    assert len(weights_fingerprint(LITE0)) == 16


def test_absent_timm_does_not_concern_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    torch.save(digits_state(), tmp_path / "net.pth")
    check_weights("timm:tf_efficientnet_lite0", tmp_path / "net.pth")
