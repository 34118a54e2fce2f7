"""The commands, as a user types them: right, and wrong."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adapters_store import artifact, plain
from adapters_store.effect import golden_images
from rootstock.main import app


@pytest.fixture(scope="module")
def files(tiny, make_adapter, tmp_path_factory):
    """(artifact, weights) of the tiny backbone."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "digits.safetensors").write_bytes(
        artifact.write(make_adapter(tiny, "alore", "digits", labels=4))
    )
    save_file(tiny.net.state_dict(), folder / "tiny.safetensors")
    return str(folder / "digits.safetensors"), str(folder / "tiny.safetensors")


def run(*words: str, code: int = 0) -> str:
    """The output of a command that ends with this code."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_show_says_what_an_artifact_is(files):
    text = run("adapter", "show", files[0])
    value = json.loads(run("adapter", "show", files[0], "--json"))

    assert "alore" in text
    assert value["manifest"]["task"] == "digits"
    assert value["parameters"] == 4 * 64 + 4 * 2 * 48 * 4


def test_verify_holds_an_artifact_to_its_backbone(files):
    assert "ok" in run("adapter", "verify", files[0], "--weights", files[1])


def test_verify_refuses_other_weights(files, tiny, tmp_path):
    state = {k: v + 0.01 for k, v in tiny.net.state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")

    said = run("adapter", "verify", files[0], "--weights", tmp_path / "other.safetensors", code=1)

    assert "was made for" in said


def test_a_merged_checkpoint_loads_strictly_and_answers_alike(files, tiny, tmp_path):
    out = tmp_path / "merged.safetensors"
    value = json.loads(
        run("adapter", "merge", files[0], "--weights", files[1], "--out", out, "--json")
    )
    net = timm.create_model(value["model"], **value["kwargs"])
    net.load_state_dict(load_file(out), strict=True)
    net.eval()

    adapter = artifact.read(Path(files[0]).read_bytes())
    pictures = golden_images((32, 32))
    images = (torch.from_numpy(pictures) / 255 - 0.5) / 0.5
    with torch.no_grad():
        merged = net(images).numpy()

    wanted = plain.logits(tiny, adapter, pictures)
    torch.testing.assert_close(torch.tensor(merged), torch.tensor(wanted), atol=1e-4, rtol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["merged.safetensors"]


def test_a_release_is_published_listed_rolled_back_and_retired(files, tiny, make_adapter, tmp_path):
    store = ("--store", str(tmp_path / "store"))
    second = tmp_path / "second.safetensors"
    second.write_bytes(artifact.write(make_adapter(tiny, "lora", "digits", seed=3)))

    run("store", "publish", files[0], *store, "--weights", files[1], "--why", "first")
    again = run("store", "publish", files[0], *store, "--weights", files[1])
    run("store", "publish", second, *store, "--weights", files[1])
    assert "is already digits@1" in again
    assert json.loads(run("store", "list", *store, "--json"))["tasks"][0]["active"] == 2

    run("store", "activate", "digits", 1, *store, "--why", "worse")
    run("store", "alias", "digits", "next", 2, *store)
    run("store", "split", "digits", "1=90", "2=10", *store)
    task = json.loads(run("store", "list", *store, "--json"))["tasks"][0]
    assert (task["active"], task["aliases"], task["split"]) == (1, {"next": 2}, {"1": 90, "2": 10})

    kinds = [e["kind"] for e in json.loads(run("store", "history", "digits", *store, "--json"))]
    assert kinds == ["publish", "publish", "activate", "alias", "split"]
    assert "worse" in run("store", "history", "digits", *store)
    assert "ok: 5 events" in run("store", "verify", *store)

    run("store", "retire", "digits", *store)
    assert "no task is published" in run("store", "list", *store)


def test_a_damaged_store_is_reported(files, tmp_path):
    run("store", "publish", files[0], "--store", tmp_path / "s", "--weights", files[1])
    (blob,) = (tmp_path / "s").glob("*/blobs/sha256/*.safetensors")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")

    said = run("store", "verify", "--store", tmp_path / "s", code=1)

    assert "NOT ok" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("adapter", "show", "absent.safetensors"), "no such file"),
        (("adapter", "show", "."), "is a folder"),
        (("store", "list", "--store", "nowhere"), "nothing is published"),
        (("store", "activate", "digits", "1", "--store", "nowhere"), "nothing is published"),
        (("methods", "--backbone", "resnet18"), "no target map"),
        (("methods", "--backbone", "no_such"), "timm cannot build"),
        (("methods", "--set", "rank=4"), "method.option=value"),
        (("methods", "--set", "lora.depth=4"), "depth"),
        (("methods", "--set", "magic.depth=4"), "unknown method"),
        (("predict", "--task", "t", "absent.png"), "no such file"),
        (("demo", "--ingress", "nginx"), "haproxy or python"),
    ],
)
def test_mistakes_end_in_one_clear_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    output = run(*words, code=1)

    assert said in output
    assert len(output.strip().splitlines()) == 1


def test_a_pickle_is_no_artifact(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x04N." * 10)

    assert "not a valid adapter" in run("adapter", "show", tmp_path / "a.safetensors", code=1)


def test_a_server_that_is_not_there_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")

    said = run("predict", "--url", "http://127.0.0.1:9", "--task", "t", tmp_path / "a.png", code=1)

    assert "no answer from http://127.0.0.1:9" in said


def test_methods_counts_what_the_papers_count():
    rows = json.loads(run("methods", "--backbone", "vit_base_patch16_224", "--json"))

    assert {r["method"]: r["parameters"] for r in rows} == {
        "alore": 148_992,
        "karst": 301_128,
        "clora": 129_024,
        "heart_lora": 245_760,
        "lora": 294_912,
        "bi_lora": 1_179_648,
        "repadapter": 239_808,
        "fact_tt": 61_440,
        "fact_tk": 86_528,
        "arc": 96_432,
        "ssf": 205_824,
        "bitfit": 102_912,
        "linear": 0,
    }
    ranks = {r["method"]: r["rank"] for r in rows}
    assert (ranks["alore"], ranks["karst"], ranks["lora"], ranks["ssf"]) == (64, 128, 8, 0)
    costs = {r["method"]: r["macs_per_token"] for r in rows}
    assert (costs["alore"], costs["karst"], costs["lora"]) == (49_664, 200_704, 24_576)
    sizes = {r["method"]: r["artifact_bytes"] for r in rows}
    assert sizes["alore"] == 2 * 148_992
    assert sizes["bi_lora"] == 144 * 1024 + 12 * 2 * 2 * 2 * 4, "bits, a mean and a deviation each"


@pytest.mark.parametrize(
    "backbone", ["swin_tiny_patch4_window7_224", "convnext_tiny", "mixer_s16_224"]
)
def test_other_families_are_offered_the_four_methods_and_the_head(backbone):
    rows = json.loads(run("methods", "--backbone", backbone, "--json"))

    assert {r["method"] for r in rows} == {"alore", "karst", "clora", "heart_lora", "linear"}


def test_a_network_without_a_target_map_is_refused_by_name():
    said = run("methods", "--backbone", "resnet18", code=1)

    assert "no target map for ResNet networks" in said


def test_options_change_the_count():
    rows = json.loads(
        run("methods", "--backbone", "vit_base_patch16_224", "--set", "alore.variant=B", "--json")
    )

    assert rows[0]["parameters"] == 150_528


def test_a_method_that_does_not_fit_is_left_out_and_asked_for_it_is_said():
    rows = json.loads(run("methods", "--backbone", "vit_so400m_patch14_siglip_224", "--json"))

    assert {"alore", "lora"} <= {r["method"] for r in rows}
    assert "fact_tt" not in {r["method"] for r in rows}, "its MLP is no whole multiple of its width"
    said = run("methods", "--set", "alore.experts=5", code=1)
    assert "5 experts do not divide the 192 inputs" in said


def test_a_hub_path_is_no_backbone():
    assert "no plain timm name" in run("methods", "--backbone", "hf-hub:somebody/model", code=1)


def test_tables_show_escape_sequences_instead_of_obeying_them(capsys):
    from rootstock.console import table

    table(("why",), [("\x1b]0;owned\x07 \x1b[2J",)])

    assert "\x1b" not in capsys.readouterr().out
