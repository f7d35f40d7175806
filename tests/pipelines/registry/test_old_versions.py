"""Tests that versions registered before the served model was renamed keep their import path and column names."""

import io
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from pipelines.registry import model, pyfunc_model
from tests.bases import SHIPPED

ORANGE = Image.new("RGB", (64, 64), "orange")


def predict(served: pyfunc_model.ServedRelease, **columns: object) -> dict[str, object]:
    served.load_context(SimpleNamespace(artifacts={"release": str(SHIPPED.with_name("faces"))}))
    buffer = io.BytesIO()
    ORANGE.save(buffer, "PNG")
    row = {"image": buffer.getvalue(), "prompts": ["a portrait of *s"], "steps": 0, "seed": 3}
    return dict(served.predict(None, pd.DataFrame([row | columns])).iloc[0])


def test_an_old_version_has_the_input_guidance_and_the_output_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E4T_BASE", str(SHIPPED))
    monkeypatch.setenv("E4T_DEVICE", "cpu")
    old = predict(model.ServedRelease(), guidance=2.0)
    new = predict(pyfunc_model.ServedRelease(), guidance_scale=2.0)
    assert old.keys() == {"pictures", "concept"}
    assert new.keys() == {"images", "concept"}
    assert old["pictures"] == new["images"]
