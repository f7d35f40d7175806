"""Static check of all sources for calls that can run foreign code; every allowed use is listed with its reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("encoder", "data_prep", "pipelines", "benchmarks", "tests", "k8s", "slurm")
OWN_PICKLE_MODULES = "pickles data sources for worker processes of the same program"
ALLOWED = {
    ("encoder/releases/torch_file.py", "pickle"): "imports the exception of a rejected pickle",
    ("tests/encoder/releases/test_torch_file.py", "torch.load"): "shows that the hostile file runs if it is unpickled",
    ("tests/data_prep/prepare/test_ownership.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/storage/test_store.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/sources/test_folder.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/sources/tables/test_hugging_face.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/sources/archives/test_archive.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/sources/tables/test_table.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/sources/archives/test_webdataset.py", "pickle"): OWN_PICKLE_MODULES,
    ("tests/data_prep/sources/labels/test_side_tables.py", "extractall"): "a zip written by the same test",
    ("tests/pipelines/pretraining/checkpoints/every_stage.py", "torch.load"): "states saved by the same test",
    ("tests/warm_process.py", "pickle"): "pickles calls for test processes that are forked from the same program",
    ("tests/security/conftest.py", "pickle"): "creates the hostile file",
    ("tests/security/test_pickles.py", "pickle"): "imports the exception of a rejected pickle",
    ("tests/security/test_pickles.py", "torch.load"): "shows that the hostile file runs if it is unpickled",
}
PICKLE_MODULES = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve")
WITHOUT_PICKLES = ("DDIMScheduler", "CLIPTokenizer", "AutoConfig", "AutoImageProcessor", "E4TPipeline", "cls")
"""Classes whose ``from_pretrained`` reads only JSON, or is defined in e4t."""
Findings = Iterator[tuple[str, int]]


def find_dangers(source: str, *, ships: bool = True) -> Findings:
    """Yield dangerous calls and imports with their lines; code that ships must also never load models from pickles."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            yield from (("pickle", node.lineno) for name in names if name in PICKLE_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLE_MODULES:
            yield "pickle", node.lineno
        elif isinstance(node, ast.Call):
            yield from ((danger, node.lineno) for danger in _find_call_dangers(node, ships))


def _find_call_dangers(call: ast.Call, ships: bool) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    function = ast.unparse(call.func)
    owner, _, name = function.rpartition(".")
    if function == "torch.load" and not is_true(keywords.get("weights_only")):
        yield "torch.load"
    if name in ("read_pickle", "load_pickle") or (name == "load_extension" and owner == "torch.utils.cpp_extension"):
        yield "pickle"
    if "allow_pickle" in keywords and not is_false(keywords["allow_pickle"]):
        yield "allow_pickle"
    if owner == "yaml" and name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"):
        yield "yaml.load"
    if function in ("eval", "exec", "compile", "__import__"):
        yield "eval"
    if "shell" in keywords and not is_false(keywords["shell"]) or function in ("os.system", "os.popen"):
        yield "shell"
    if name in ("extractall", "unpack_archive"):
        yield "extractall"
    if "trust_remote_code" in keywords and not is_false(keywords["trust_remote_code"]):
        yield "trust_remote_code"
    if ships and name == "from_pretrained":
        kind = owner.rpartition(".")[2]
        if re.match("Auto[A-Z]", kind) and not is_false(keywords.get("trust_remote_code")):
            yield "trust_remote_code"
        if kind not in WITHOUT_PICKLES and not is_true(keywords.get("use_safetensors")):
            yield "from_pretrained without use_safetensors"


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_no_source_file_can_run_foreign_code() -> None:
    files = [
        ROOT / "e4t.py",
        ROOT / "e4t_errors.py",
        *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))),
    ]
    findings = {}
    for path in files:
        file = str(path.relative_to(ROOT))
        ships = not file.startswith(("tests/", "benchmarks/"))
        findings |= {(file, danger): line for danger, line in find_dangers(path.read_text(), ships=ships)}
    assert len(files) > 200
    assert {key: line for key, line in findings.items() if key not in ALLOWED} == {}
    assert ALLOWED.keys() - findings.keys() == set(), "allowed, but no longer in the sources"


@pytest.mark.parametrize(
    ("source", "danger"),
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
def test_each_danger_is_found(source: str, danger: str) -> None:
    assert [each for each, _ in find_dangers(source)] == [danger]


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
def test_harmless_code_is_not_reported(source: str) -> None:
    assert list(find_dangers(source)) == []
