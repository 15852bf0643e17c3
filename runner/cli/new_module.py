"""Writes the package that a module of one's own begins as: ``serket new-module``."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path
from string import Template

from actors.graph.registry import module_types

TEMPLATES = Path(__file__).parent / "templates" / "module"
_SUFFIX = ".template"
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_-]{0,60}[A-Za-z0-9])?")


class TemplateError(ValueError):
    """A package that cannot be written; says why."""


def new_module(name: str, directory: Path = Path()) -> Path:
    """Write an installable package with a small module, its tests, and a model that uses it.

    Parameters
    ----------
    name : str
        The distribution's name; with ``_`` for ``-`` the package's and what model files call the module.
    directory : Path
        Where the package's directory `name` is made.

    Returns
    -------
    Path
        The package's directory.

    Raises
    ------
    TemplateError
        If the name cannot be a package's or is somebody else's, if the directory is there, or if it cannot be made.
    """
    words = _words(name)
    home = directory / name
    try:
        home.mkdir(parents=True)
        for template in sorted(TEMPLATES.rglob(f"*{_SUFFIX}")):
            path = home / _target(template.relative_to(TEMPLATES), words["package"])
            path.parent.mkdir(exist_ok=True)
            path.write_text(Template(template.read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    except FileExistsError:
        raise TemplateError(f"{home} is there already; choose another name, or another --directory") from None
    except OSError as error:
        raise TemplateError(f"{error.filename or home} cannot be written ({error.strerror})") from error
    return home


def _words(name: str) -> dict[str, str]:
    """Return what stands for the words of the templates."""
    package = name.replace("-", "_").lower()
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise TemplateError(f"{name!r} cannot be a package's name: use letters, digits and '-', a letter first")
    for found in module_types():
        if found.name == package:
            raise TemplateError(f"a module type {package!r} is there already, in {found.origin}; choose another name")
    if package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        raise TemplateError(f"a Python package {package!r} is there already; choose another name")
    cls = "".join(word[:1].upper() + word[1:] for word in re.split("[-_]", name))
    if re.search(rf"import .*\b{cls}\b", (TEMPLATES / "package" / f"module.py{_SUFFIX}").read_text(encoding="utf-8")):
        raise TemplateError(f"a class {cls} is in the contract of modules already; choose another name")
    return {"name": name, "package": package, "cls": cls}


def _target(template: Path, package: str) -> Path:
    """Return where a template's file goes."""
    renamed = {"package": package, "test_module.py": f"test_{package}.py", "gitignore": ".gitignore"}
    parts = [part.removesuffix(_SUFFIX) for part in template.parts]
    return Path(*(renamed.get(part, part) for part in parts))
