"""The files that choices such as algo=clip name, in conf/ or a folder of one's own: found, and read as written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from ppo.refusals import UserError

PLAIN = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9_]*)"),
    "tag:yaml.org,2002:bool": re.compile(r"true|false", re.IGNORECASE),
}
"""How numbers and truth are written here. YAML takes 010 for 8, 1:30 for 90 and on for true as well."""


def names_in(group: Path) -> list[str]:
    """The names that may be chosen from a folder of conf/, such as hopper or atari/pong."""
    names = [path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")]
    return sorted(name for name in names if not name.endswith("/settings"))


def path_of(group: str, name: str, folders: Sequence[Path]) -> Path | None:
    """The file of a choice. Of two files with one name Hydra would take ours in silence, so that is refused."""
    found = [path for folder in folders if (path := folder / group / f"{name}.yaml").is_file()]
    if len(found) > 1 and found[0].read_bytes() != found[1].read_bytes():
        raise UserError(f"{found[1]}: there is a {group}={name} in {found[0].parent} already; give yours another name")
    return found[0] if found else None


def read(path: Path) -> dict[str, Any]:
    """A file's content; refuses what is no YAML, no mapping, or means something else to YAML than to a reader."""
    try:
        text = path.read_text()
        node = yaml.compose(text, Loader=get_yaml_loader())
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path} should hold lines such as key: value")
        check(node, path)
        content: Any = OmegaConf.to_container(OmegaConf.create(text))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line} is not readable YAML: {error.problem}") from error
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not readable: {str(error).splitlines()[0]}") from error
    return {str(key): value for key, value in content.items()}


def check(node: yaml.Node, path: Path) -> None:
    """Refuse keys that are no words, and numbers and truth values in forms that readers take for something else."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                said = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise UserError(f'{place(key, path)}: YAML does not read the name {said} as text; write "{said}"')
            check(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            check(item, path)
    elif (form := PLAIN.get(node.tag)) and not form.fullmatch(node.value):
        other = "another number; write that one" if node.tag.endswith("int") else "true or false; write that"
        raise UserError(f'{place(node, path)}: YAML reads {node.value} as {other}, or "{node.value}" for a text')


def place(node: yaml.Node, path: Path) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def keys_set(group: str, name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """Every key that a choice sets, by its full name such as profile.horizon, with its value as it is written."""
    path = path_of(group, name, folders)
    if path is None:
        return {}
    content = read(path)
    keys: dict[str, Any] = {}
    for below in content.pop("defaults", []):
        if isinstance(below, str) and below != "_self_":
            keys |= keys_set(group, below.partition("@")[0], folders)
    header = re.match(r"\s*#\s*@package\s+(\S+)", path.read_text())
    package = header[1] if header else group
    own = dict(flat(content, "" if package == "_global_" else f"{package.replace('_group_', group)}."))
    return own | {key: value for key, value in keys.items() if key not in own}


def flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
