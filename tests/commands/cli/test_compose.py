from pathlib import Path

import pytest

from bnrecal.commands.cli.compose import compose_config, config_dir, read_config
from bnrecal.commands.cli.schemas import SCHEMAS
from bnrecal.config import Config, parse

ROOT = config_dir()
GROUPS = [path.relative_to(ROOT) for path in sorted(ROOT.glob("*/*.yaml"))]
OWN_NAMES = {"torchvision": "resnet34", "timm": "resnet10t"}  # groups that leave the network's name to the user


@pytest.mark.parametrize("path", GROUPS, ids=str)
def test_every_group_file_composes(path: Path) -> None:
    group, name = path.parent.name, path.stem
    overrides = [f"{'+' if group == 'launch' else ''}{group}={name}"]
    overrides += [f"model.name={OWN_NAMES[name]}"] if name in OWN_NAMES else []
    config = parse(compose_config("config", overrides))
    assert isinstance(config, Config)
    if group in ("model", "data"):
        assert getattr(config, group).name == OWN_NAMES.get(name, name)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_command_file_composes(path: Path) -> None:
    if path.stem == "config":
        parse(compose_config(path.stem, []))
    else:
        read_config(SCHEMAS[path.stem], [])


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_opens_with_the_command_that_uses_it(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert "python -m bnrecal" in lines[0]
