"""Fixtures for all tests: the shipped tiny base model, a tiny base model of every family, and a local hub."""

import copy
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers that share cores wait for each other

import hypothesis
import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http
from torch import Tensor
from transformers.utils import hub as transformers_hub

from data_prep.synthetic.faces import Identity, Scene, render
from encoder.backbone.backbone import Backbone
from encoder.config import BackboneConfig, ConditioningConfig
from encoder.model.conditioning import Conditioning
from encoder.model.domain_encoder import DomainEncoder, DomainEncoderConfig
from encoder.model.weight_offsets import OffsetPredictor
from tests.bases import SHIPPED, UNETS, make_base
from tests.hub_server import TOKEN, Hub, hub_server
from tests.shared import use_shared_folder

hypothesis.settings.register_profile("e4t", deadline=None)  # examples take longer on a busy machine
hypothesis.settings.load_profile("e4t")

TIERS = {"cluster", "pods", "browser", "long"}
"""Markers of tests that are not in the quick tier."""
UNAVOIDABLE_SKIPS = (
    "GPU",
    "fp16 arithmetic",
    "file system",
    "sandbox",
    "POSIX",
    "RLIMIT_FSIZE",
    "C libraries",
    "not a checkout",
    "reads only the data",
)
"""Parts of reasons why a test may be skipped even if E4T_NO_SKIPS is set: no installation can change them."""


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With E4T_NO_SKIPS, as in CI, let a test fail that is skipped because something is not installed."""
    if os.environ.get("E4T_NO_SKIPS") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(part in reason for part in UNAVOIDABLE_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped although E4T_NO_SKIPS is set: {reason}"


@pytest.hookimpl(trylast=True)  # after the tests of other tiers have been deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that two tiers would run, and start long files first, so that no worker ends with one alone.

    Long files are those whose tests start several processes or have a time limit of their own.
    """
    for item in items:
        if len(tiers := TIERS & {mark.name for mark in item.iter_markers()}) > 1:
            raise pytest.UsageError(f"{item.nodeid} is in several tiers ({', '.join(sorted(tiers))}); keep one marker")
    slow = {item.path for item in items if any(map(item.get_closest_marker, ("distributed", "timeout")))}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use one folder of shared fixtures for all workers of the session; see ``tests.shared``."""
    root = tmp_path_factory.getbasetemp()
    use_shared_folder((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test an empty cache, so that it never finds files of another test or of the user."""
    monkeypatch.setenv("E4T_CACHE", str(tmp_path / "e4t-cache"))


@pytest.fixture
def base() -> Path:
    """Folder of the shipped base model."""
    return SHIPPED


@pytest.fixture(scope="session")
def _loaded_backbone() -> Backbone:
    return Backbone.load(BackboneConfig(model=str(SHIPPED)))


@pytest.fixture
def backbone(base: Path, _loaded_backbone: Backbone) -> Backbone:
    """The base model of the fixture ``base``. The shipped one is copied, in a third of the time of loading."""
    return copy.deepcopy(_loaded_backbone) if base == SHIPPED else Backbone.load(BackboneConfig(model=str(base)))


@pytest.fixture
def conditioning(backbone: Backbone) -> Conditioning:
    return Conditioning.from_backbone(
        backbone, ConditioningConfig(domain_word="person", templates=("a portrait of a *s",))
    )


@pytest.fixture
def encoder(backbone: Backbone) -> DomainEncoder:
    """A domain encoder whose output is not zero: its last layer has random weights."""
    encoder = DomainEncoder(DomainEncoderConfig.for_backbone(backbone, hidden_width=64))
    torch.nn.init.normal_(encoder.out_proj.weight, std=0.2)
    return encoder


@pytest.fixture
def offsets(backbone: Backbone) -> OffsetPredictor:
    """Weight offsets that change the UNet: their last layers have random weights."""
    predictor = OffsetPredictor.for_unet(backbone.unet)
    for offset in predictor.offsets:
        torch.nn.init.normal_(offset.rows.weight, std=0.02)
        torch.nn.init.normal_(offset.rows.bias, std=0.02)
    return predictor


@pytest.fixture
def pixels(backbone: Backbone) -> Tensor:
    """Two drawn faces at the resolution S of the base model, (2, 3, S, S) in [-1, 1]."""
    rng, size = random.Random(5), backbone.resolution
    images = [render(Identity.random(rng), Scene.random(rng), size) for _ in range(2)]
    arrays = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3) for image in images]
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny base model of every family, in subfolders named after the families."""
    root = tmp_path_factory.mktemp("families")
    for family in UNETS:
        make_base(root / family, family)
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub server on this machine, an empty cache and a token. Clients retry without waiting and do not use Xet."""
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(transformers_hub, "_hf_api", None)
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        _http.close_session()
