"""The quickstart runs commands that e4t accepts."""

from pathlib import Path

from pipelines.cli.command_line import parse_command_line
from pipelines.cli.common import parse_recipe
from pipelines.cli.quickstart import stage_commands


def test_e4t_accepts_the_command_of_every_stage_of_the_quickstart(tmp_path: Path) -> None:
    _, arguments = parse_command_line(["quickstart", "--runs", str(tmp_path)])
    recipe = parse_recipe(arguments)
    recipe.folder.mkdir(parents=True)
    packaged = Path(__file__).parents[3] / "pipelines" / "recipes" / "quickstart.yaml"
    (recipe.folder / "recipe.yaml").write_text(packaged.read_text())
    names = [parse_command_line(words)[0].name for _, words in stage_commands(recipe, nproc=2)]
    assert names == ["faces", "prepare", "pretrain", "evaluate", "release"]
