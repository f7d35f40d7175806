"""What runs code that somebody else wrote, found in the sources themselves; each place that may has its reason here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("encoder", "data_prep", "pipelines", "benchmarks", "tests", "k8s", "slurm")
OWN_PICKLES = "sources are sent to the workers of this very program: our own bytes, there and back"
ALLOWED = {
    ("encoder/releases/torch_file.py", "pickle"): "names the error of a pickle that was refused",
    ("tests/encoder/releases/test_torch_file.py", "torch.load"): "shows that the hostile file does run where it is let",
    ("tests/data_prep/storage/test_store.py", "pickle"): OWN_PICKLES,
    ("tests/data_prep/sources/test_folder.py", "pickle"): OWN_PICKLES,
    ("tests/data_prep/sources/test_hugging_face.py", "pickle"): OWN_PICKLES,
    ("tests/data_prep/sources/test_archive.py", "pickle"): OWN_PICKLES,
    ("tests/data_prep/sources/test_table.py", "pickle"): OWN_PICKLES,
    ("tests/data_prep/sources/test_webdataset.py", "pickle"): OWN_PICKLES,
    ("tests/data_prep/sources/test_side_tables.py", "extractall"): "a zip that the test has written itself",
    ("tests/pipelines/pretraining/checkpoints/every_stage.py", "torch.load"): "states that the same test has saved",
    ("tests/security/conftest.py", "pickle"): "makes the hostile file",
    ("tests/security/test_pickles.py", "pickle"): "names the error of a pickle that was refused",
    ("tests/security/test_pickles.py", "torch.load"): "shows that the hostile file does run where it is let",
}
PICKLES = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve")
NO_WEIGHTS = ("DDIMScheduler", "CLIPTokenizer", "AutoConfig", "AutoImageProcessor", "E4TPipeline", "cls")
"""What reads only JSON in its ``from_pretrained``, or is our own."""
Found = Iterator[tuple[str, int]]


def dangers(source: str, *, ships: bool = True) -> Found:
    """What is dangerous in a module, and in which line; of what ``ships`` also models that could be pickles."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            yield from (("pickle", node.lineno) for name in names if name in PICKLES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            yield "pickle", node.lineno
        elif isinstance(node, ast.Call):
            yield from ((what, node.lineno) for what in _dangers_of_call(node, ships))


def _dangers_of_call(call: ast.Call, ships: bool) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    called = ast.unparse(call.func)
    owner, _, name = called.rpartition(".")
    if called == "torch.load" and not is_true(keywords.get("weights_only")):
        yield "torch.load"
    if name in ("read_pickle", "load_pickle") or (name == "load_extension" and owner == "torch.utils.cpp_extension"):
        yield "pickle"
    if "allow_pickle" in keywords and not is_false(keywords["allow_pickle"]):
        yield "allow_pickle"
    if owner == "yaml" and name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"):
        yield "yaml.load"
    if called in ("eval", "exec", "compile", "__import__"):
        yield "eval"
    if "shell" in keywords and not is_false(keywords["shell"]) or called in ("os.system", "os.popen"):
        yield "shell"
    if name in ("extractall", "unpack_archive"):
        yield "extractall"
    if "trust_remote_code" in keywords and not is_false(keywords["trust_remote_code"]):
        yield "trust_remote_code"
    if ships and name == "from_pretrained":
        kind = owner.rpartition(".")[2]
        if re.match("Auto[A-Z]", kind) and not is_false(keywords.get("trust_remote_code")):
            yield "trust_remote_code"
        if kind not in NO_WEIGHTS and not is_true(keywords.get("use_safetensors")):
            yield "from_pretrained without use_safetensors"


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_nothing_in_the_sources_runs_what_others_wrote() -> None:
    files = [ROOT / "e4t.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
    found = {}
    for path in files:
        file = str(path.relative_to(ROOT))
        ships = not file.startswith(("tests/", "benchmarks/"))
        found |= {(file, what): line for what, line in dangers(path.read_text(), ships=ships)}
    assert len(files) > 200
    assert {key: line for key, line in found.items() if key not in ALLOWED} == {}
    assert ALLOWED.keys() - found.keys() == set(), "allowed, but not there any more"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "pickle"),
        ("pandas.read_pickle(path)", "pickle"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.load(path, weights_only=anything)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.unsafe_load(text)", "yaml.load"),
        ("eval(text)", "eval"),
        ("exec(text)", "eval"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("os.system(text)", "shell"),
        ("tar.extractall(folder)", "extractall"),
        ("load_dataset(name, trust_remote_code=True)", "trust_remote_code"),
        ("AutoConfig.from_pretrained(name)", "trust_remote_code"),
        ("UNet2DConditionModel.from_pretrained(name)", "from_pretrained without use_safetensors"),
    ],
)
def test_each_danger_is_found(source: str, what: str) -> None:
    assert [each for each, _ in dangers(source)] == [what]


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "model.eval()",
        "subprocess.run([text])",
        "AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)",
    ],
)
def test_what_is_harmless_is_not(source: str) -> None:
    assert list(dangers(source)) == []
