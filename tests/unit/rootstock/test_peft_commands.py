"""`rootstock adapter import-peft` and `export-peft`, as a user calls them."""

import json
import warnings

import pytest
import timm
import torch
from typer.testing import CliRunner

from rootstock.main import app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own


def run(*arguments: object):
    """A command in this process: (exit code, stdout, stderr)."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(nano, tmp_path):
    """A PEFT adapter trained on the bundled backbone, three classes."""
    ref = nano.spec.ref
    net = timm.create_model(ref.name, **ref.kwargs, num_classes=3)
    net.load_state_dict(nano.net.state_dict(), strict=False)
    config = peft.LoraConfig(r=4, target_modules=["qkv"], modules_to_save=["head"])
    model = peft.get_peft_model(net, config)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "flowers")
    return tmp_path / "flowers"


def test_a_folder_becomes_an_artifact_and_a_folder_again(folder, tmp_path):
    """Imported, verified, exported, imported again: the factors are the same."""
    labels = tmp_path / "labels.txt"
    labels.write_text("rose\ntulip\nlily\n")
    file, again = tmp_path / "flowers.safetensors", tmp_path / "again.safetensors"
    nano = ("--backbone", "rootstock_nano")

    code, said, _ = run(
        "adapter", "import-peft", folder, *nano, "--labels", labels, "--out", file, "--json"
    )
    assert code == 0
    assert json.loads(said)["task"] == "flowers"
    assert run("adapter", "verify", file)[0] == 0
    shown = json.loads(run("adapter", "show", file, "--json")[1])
    assert shown["manifest"]["labels"] == ["rose", "tulip", "lily"]

    assert run("adapter", "export-peft", file, "--out", tmp_path / "out")[0] == 0
    code, _, _ = run(
        "adapter", "import-peft", tmp_path / "out", *nano, "--labels", labels,
        "--task", "flowers", "--out", again,
    )  # fmt: skip
    assert code == 0
    other = json.loads(run("adapter", "show", again, "--json")[1])
    assert other["tensors"] == shown["tensors"]
    assert other["manifest"]["effect"] == shown["manifest"]["effect"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "pass --backbone NAME"),
        (("--backbone", "rootstock_nano", "--task", "Flowers!"), "task"),
        (("--backbone", "rootstock_nano", "--geometry", "round"), "--geometry is squash or timm"),
        (("--backbone", "resnet18", "--weights", "absent.safetensors"), "absent.safetensors"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, arguments, line):
    """No artifact is written, no traceback shown."""
    out = tmp_path / "flowers.safetensors"

    code, _, said = run("adapter", "import-peft", folder, "--out", out, *arguments)

    assert code == 1
    assert line in said
    assert "Traceback" not in said
    assert not out.exists()


def test_a_folder_that_is_there_is_not_written_over(folder, tmp_path):
    """Somebody's files stay."""
    file = tmp_path / "flowers.safetensors"
    run("adapter", "import-peft", folder, "--backbone", "rootstock_nano", "--out", file)

    code, _, said = run("adapter", "export-peft", file, "--out", folder)

    assert code == 1
    assert "is not an empty folder" in said


@pytest.mark.parametrize("name", ["local-dir:/tmp/evil", "hf-hub:somebody/model", ["a"], "../a"])
def test_a_folder_does_not_choose_what_is_downloaded_or_opened(folder, tmp_path, name):
    """Only a plain timm name is taken from it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": name})
    )

    code, _, said = run("adapter", "import-peft", folder, "--out", tmp_path / "a.safetensors")

    assert code == 1
    assert "no plain timm model" in said
