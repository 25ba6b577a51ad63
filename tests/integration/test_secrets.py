"""A secret that stands in the environment or in the recipe is found nowhere afterwards."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from tests.conftest import Install
from toolkit import Recipe
from toolkit.cli import main
from toolkit.notices import without_credentials

SECRET = "hf_PLANTEDsecret0123456789"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "TOOLKIT_SECRET")
PLUGIN = '''
"""A tracker that wants a key."""
import logging
import sys
import warnings
from dataclasses import dataclass
from toolkit import hookimpl

@dataclass(frozen=True)
class Settings:
    api_key: str | None = None
    address: str | None = None

@hookimpl
def toolkit_settings():
    return Settings

@hookimpl
def toolkit_callbacks(recipe):
    if recipe.settings(Settings).api_key:
        open("told", "w").close()
        address = recipe.settings(Settings).address
        logging.getLogger("keyed").warning("asking %s", address)
        print(warnings.formatwarning(f"asked {address}", UserWarning, "keyed.py", 1), file=sys.stderr)
    return []
'''


@pytest.fixture
def planted(install: Install, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.setenv(name, SECRET)
    install("toolkit-keyed", plugins={"keyed": "toolkit_keyed"}, modules={"toolkit_keyed": PLUGIN})
    Path("r.yaml").write_text(
        "extends: causal-lm\n"
        "data: {limit: 6}\n"
        "plugins: [causal-lm, keyed]\n"
        f"keyed: {{api_key: {SECRET}, address: 'https://me:{SECRET}@host/?token={SECRET}'}}\n"
        f"train: {{hub_token: {SECRET}, max_steps: 2, save_strategy: steps, save_steps: 1, logging_steps: 1, "
        "report_to: tensorboard, per_device_train_batch_size: 2, "
        f"run_name: 'https://me:{SECRET}@host/x', hub_model_id: 'https://host/y?token={SECRET}'}}\n"
    )
    return in_tmp


def nowhere_below(folder: Path) -> int:
    """How many files there are, in none of which the secret is, as it stands or in base 64."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
        assert "PLANTED" not in str(path)
    return len(files)


def test_a_run_keeps_secrets(
    planted: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    for typed in (
        "run r.yaml --output-dir run --json",
        "run r.yaml --output-dir run --resume --debug",
        "eval run",
        "export run --to out --merge --json",
        "check r.yaml",
        "predict run Hello",
    ):
        status = main(shlex.split(typed))
        said = "".join(capfd.readouterr())
        assert SECRET not in said + caplog.text
        assert status == 0, said
    assert Path("told").exists()
    assert "asking https://***@host/?token=***" in caplog.text
    assert nowhere_below(Path("run")) > 15
    assert list(Path("run").rglob("events.out.tfevents*"))
    assert nowhere_below(Path("out")) > 3


@pytest.mark.parametrize(
    "typed",
    [
        f"run r.yaml --data https://me:{SECRET}@host/data.csv",
        f"run r.yaml --data 'https://host/data.csv?token={SECRET}'",
        f"run r.yaml --model https://me:{SECRET}@host/model",
        f"run r.yaml --set train.hub_token=[{SECRET}]",
        f"run r.yaml --set 'train.hub_token={{a: {SECRET}}}'",
        f"run r.yaml --set keyed.api_key=[{SECRET}]",
        f"run r.yaml --set train.learning_rate=fast --set train.hub_token={SECRET}",
        f"run r.yaml --set train.push_to_hub=true --set train.hub_token={SECRET}",
        f"check r.yaml --data https://me:{SECRET}@host/data.csv --debug",
        "run r.yaml --set train.max_steps=-5",
    ],
)
@pytest.mark.parametrize("option", ["", "--json", "--debug"])
def test_an_error_keeps_secrets(
    typed: str, option: str, planted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"{typed} {option}")) == 2
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert "could not be loaded" not in said
    assert nowhere_below(Path("runs")) == 0


ADDRESSES = [
    "https://a.blob.core.windows.net/c/d.csv?sv=2022&sig={}",
    "https://bucket.s3.amazonaws.com/d.csv?X-Amz-Credential={}&X-Amz-Signature={}&X-Amz-Security-Token={}",
    "https://host/d.csv?auth={}",
    "https://host/d.csv?x=1;pwd={}",
    "https://host/d.csv;passwd={}",
    "https://host/d.csv#access_token={}",
    "https://host/d.csv?state=1&code={}",
    "https://me:{}/x@host/d.csv",
    "https://me:x/{}@host/d.csv",
    "https://me:x@{}@host/d.csv#token={}",
    "https://{}@host/@me/d.csv",
    "https://host/login?next=https://me:{}@host",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_keeps_secrets(address: str, in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    address = address.replace("{}", SECRET)
    for typed in (["--task", "causal-lm", "--data", address], [f"{address.removesuffix('.csv')}/r.yaml"]):
        assert main(["check", *typed]) == 2
        assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "text",
    ["for(;key=next();)", "#key=1", "a@b", "https://host/@me", "https://host/?design=1&zipcode=2", "x:/y"],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_credentials(text) == text


@pytest.mark.parametrize("key", ["token", "api_key", "api_keys", "slack_token", "session_token", "dbpassword", "pwd",
                                 "passphrase", "credentials", "signing_key", "hf_tokens"])  # fmt: skip
def test_keys_that_name_a_secret(key: str) -> None:
    recipe = Recipe(name="mine", plugins=["keyed"], model="m", data="d", keyed={key: SECRET, "other": 1})
    assert recipe.without_secrets().as_dict()["keyed"] == {"other": 1}


@pytest.mark.parametrize(
    "key", ["max_new_tokens", "num_virtual_tokens", "pad_token", "key", "tokens", "monkey"]
)
def test_keys_that_name_none(key: str) -> None:
    recipe = Recipe(name="mine", plugins=["keyed"], model="m", data="d", keyed={key: 1})
    assert recipe.without_secrets().as_dict()["keyed"] == {key: 1}


def test_a_long_text_is_looked_through_at_once() -> None:
    started = time.monotonic()
    for part in ("://a:", "?token", "@://a:", "&;#", "a:/", "?x-"):
        without_credentials(part * 100_000)
    assert time.monotonic() - started < 20


def test_a_search_keeps_secrets(planted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    Path("s.yaml").write_text(
        Path("r.yaml").read_text().replace("plugins: [causal-lm, keyed]\n", "").replace("keyed:", "#")
    )
    typed = (
        "search s.yaml --trials 1 --set data.limit=4 --space train.learning_rate=1e-3,1e-4 --output-dir found"
    )
    status = main(shlex.split(typed))
    said = "".join(capfd.readouterr())
    assert SECRET not in said
    assert status == 0, said
    assert nowhere_below(Path("found")) > 5
