"""Show what is installed and whether it works: packages, device, plugins, room on the disk."""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from toolkit.cli.console import print_table
from toolkit.discovery import installed, metadata_faults
from toolkit.environment import distributions, environment, package_version
from toolkit.errors import PluginError, ToolkitError
from toolkit.notices import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    packages = distributions()
    modules = _modules()
    named = {name: modules.get(name, name) for name in packages}
    checks = [
        _check(f"import {module}", partial(_import, module, name), f"pip install {name}")
        for name, module in named.items()
    ]
    needless = {f"import {module}" for name, module in named.items() if not packages[name]}
    checks.append(
        _check("model.add_adapter", _adapters, "pip install --upgrade peft, or an older transformers")
    )
    checks += [
        _check(f"plugin {one.name}", partial(_load, one), f"reinstall {one.distribution}")
        for one in installed("plugin")
    ]
    checks.append(_check("plugins and tasks by name", _metadata, "reinstall or uninstall the package"))
    checks.append(_check("write here", _room, "change to a folder you may write to"))
    ok = all(one["ok"] for one in checks if one["name"] not in needless)
    return {"ok": ok, "environment": environment(), "checks": checks}, 0 if ok else 1


def _check(name: str, look: Callable[[], str], hint: str) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "detail": look(), "hint": None}
    except Exception as error:
        detail = error.message if isinstance(error, ToolkitError) else f"{type(error).__name__}: {error}"
        return {"name": name, "ok": False, "detail": detail.splitlines()[0], "hint": hint}


def _modules() -> dict[str, str]:
    """What each installed package is imported by."""
    found: dict[str, str] = {}
    for module, packages in sorted(packages_distributions().items()):
        for package in () if module.startswith("_") else packages:
            if module == package.lower() or package.lower() not in found:
                found[package.lower()] = module
    return found


def _import(module: str, package: str) -> str:
    imported = importlib.import_module(module)
    return str(getattr(imported, "__version__", None) or package_version(package))


def _adapters() -> str:
    """transformers refuses a peft that is older than it likes only when an adapter is added."""
    importlib.import_module("torch")
    from transformers.integrations.peft import MIN_PEFT_VERSION
    from transformers.utils import check_peft_version

    check_peft_version(min_version=MIN_PEFT_VERSION)
    return f"transformers wants peft {MIN_PEFT_VERSION} or newer"


def _load(plugin: Any) -> str:
    plugin.load()
    return f"{plugin.distribution} {plugin.version}"


def _metadata() -> str:
    if faults := metadata_faults():
        raise PluginError("; ".join(faults), hint="reinstall or uninstall the package")
    return "each is of one package"


def _room() -> str:
    probe = Path(".toolkit-doctor")
    probe.touch()
    probe.unlink()
    return f"{shutil.disk_usage('.').free / 1e9:.0f} GB free"


def show(document: dict[str, Any]) -> None:
    environment = document["environment"]
    print(f"Python {environment['python']} on {environment['platform']}, {environment['device']}")
    print_table([["ok" if one["ok"] else "--", one["name"], one["detail"]] for one in document["checks"]])
    for one in document["checks"]:
        if not one["ok"]:
            print(printable(f"hint: {one['name']}: {one['hint']}"))
