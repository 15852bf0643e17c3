"""Write an installable package with a new module from the templates in this folder: ``serket new-module``."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path
from string import Template

from actors.graph.registry import module_types
from runner.config.error_messages import format_value

TEMPLATES = Path(__file__).parent / "templates" / "module"
_SUFFIX = ".template"
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_-]{0,60}[A-Za-z0-9])?")


class TemplateError(ValueError):
    """Raised when a package cannot be written; the message says why."""


def write_package(name: str, directory: Path = Path()) -> Path:
    """Write an installable package with a small module, its tests, and a model that uses it.

    Parameters
    ----------
    name : str
        The name of the distribution; with ``_`` for ``-``, the name of the package and of the module's type.
    directory : Path
        Where the directory `name` of the package is created.

    Returns
    -------
    Path
        The directory of the package.

    Raises
    ------
    TemplateError
        If the name is invalid or taken, or if the directory exists or cannot be written.
    """
    values = _template_values(name)
    root = directory / name
    try:
        root.mkdir(parents=True)
        for template in sorted(TEMPLATES.rglob(f"*{_SUFFIX}")):
            path = root / _target_path(template.relative_to(TEMPLATES), values["package"])
            path.parent.mkdir(exist_ok=True)
            path.write_text(Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
    except FileExistsError:
        raise TemplateError(f"{root} already exists; choose another name, or another --directory") from None
    except (OSError, ValueError) as error:
        where, reason = getattr(error, "filename", None) or root, getattr(error, "strerror", None) or error
        raise TemplateError(f"{where} cannot be written ({reason})") from error
    return root


def _template_values(name: str) -> dict[str, str]:
    """Return the values of the placeholders in the templates."""
    package = name.replace("-", "_").lower()
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise TemplateError(
            f"{format_value(name)} is not a valid package name: use letters, digits and '-', a letter first"
        )
    for existing in module_types():
        if existing.name == package:
            raise TemplateError(f"a module type {package!r} already exists, in {existing.origin}; choose another name")
    if package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        raise TemplateError(f"a Python package {package!r} already exists; choose another name")
    cls = "".join(word[:1].upper() + word[1:] for word in re.split("[-_]", name))
    if re.search(rf"import .*\b{cls}\b", (TEMPLATES / "package" / f"module.py{_SUFFIX}").read_text(encoding="utf-8")):
        raise TemplateError(f"a class {cls} is already imported by the template; choose another name")
    return {"name": name, "package": package, "cls": cls}


def _target_path(template: Path, package: str) -> Path:
    """Return the path in the package of a template file."""
    renamed = {"package": package, "test_module.py": f"test_{package}.py", "gitignore": ".gitignore"}
    parts = [part.removesuffix(_SUFFIX) for part in template.parts]
    return Path(*(renamed.get(part, part) for part in parts))
