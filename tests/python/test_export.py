"""What an export chooses: the body, the tables, and what it says of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import drawn
from jax.interpreters.mlir import make_ir_context
from jaxlib.mlir.dialects import stablehlo
from so3krates.files import WriteError
from so3krates.model.config import ModelConfig
from so3krates.storage import Model
from so3krates_export.bundle import read_bundle
from so3krates_export.cuda import CALL, KERNEL_VERSION
from so3krates_export.export import export_model
from so3krates_export.fused import FusedError
from so3krates_export.ladder import Rung, gpu_ladder
from so3krates_export.tables import TOLERANCE, TableError

LADDER = [Rung(64, 2048, 96, 32), Rung(64, 2048, 192, 64)]
CONFIG = ModelConfig(features=8, heads=2, layers=2, degrees=(1, 2), radial_functions=8, cutoff=4.0)


def model(**settings: object) -> Model:
    config = dataclasses.replace(CONFIG, **settings)
    params = jax.tree.map(lambda p: p, drawn(config, 0))  # a tree of its own
    return Model(config, params, ("Ga", "N"), {"Ga": 0.0, "N": 0.0})


def not_finite() -> Model:
    """A network of which no tables can be made."""
    result = model()
    result.params["embedding"]["embedding"] = np.full_like(result.params["embedding"]["embedding"], np.nan)
    return result


def test_the_default_is_fused_where_the_kernels_compute_the_network(tmp_path: Path) -> None:
    choice = export_model(model(), tmp_path / "a.so3k", ladder=LADDER)
    manifest = read_bundle(tmp_path / "a.so3k").manifest
    assert choice.body == manifest["body"] == "fused"
    assert choice.reason is None
    assert choice.tables == manifest["tables"]
    assert 0 < manifest["tables"]["force_error"] < TOLERANCE
    assert choice.describe().startswith(f"Body fused; tables of {choice.tables['nodes']} nodes change forces by ")
    # float64 is no more precise than its tables: the export says by how much.
    assert f"{choice.tables['force_error']:.1e} eV/A, whatever the precision" in choice.describe()


@pytest.mark.parametrize(
    ("made", "options", "reason"),
    [
        (lambda: model(layer_normalization=True), {}, "the fused kernels do not compute layer_normalization"),
        (
            lambda: model(radial_basis="gaussian", radial_start=1.5),
            {"tables": "off"},
            "the fused kernels do not compute radial filter networks without tables",
        ),
        (
            lambda: model(layer_normalization=True),
            {"platform": "cuda", "ladder": gpu_ladder()[:1]},
            "the fused kernels do not compute layer_normalization",
        ),
        (not_finite, {}, "the network's forces on the structures that check tables are not finite"),
    ],
)
def test_where_they_do_not_it_is_xla_and_says_why(tmp_path: Path, made, options: dict, reason: str) -> None:
    choice = export_model(made(), tmp_path / "a.so3k", **{"ladder": LADDER, **options})
    manifest = read_bundle(tmp_path / "a.so3k").manifest
    assert choice.body == manifest["body"] == "xla"
    assert choice.tables is None and manifest["tables"] is None
    assert choice.reason == reason
    assert choice.describe() == f"Body xla, because {reason}"


def test_a_ladder_that_loops_do_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="64 rows: programs for cuda take multiples of 4096"):
        export_model(model(), tmp_path / "a.so3k", platform="cuda", ladder=LADDER)


def test_a_bundle_for_a_gpu_holds_kernels_and_portable_programs(tmp_path: Path) -> None:
    ladder = [rung for rung in gpu_ladder() if rung.neighbours == 64][:2]  # one size, two lengths of lists
    choice = export_model(model(), tmp_path / "a.so3k", platform="cuda", ladder=ladder)
    bundle = read_bundle(tmp_path / "a.so3k")
    manifest = bundle.manifest
    assert choice.body == manifest["body"] == "fused"
    assert (manifest["version"], manifest["kernels"]) == (5, KERNEL_VERSION)
    assert [len(lines) > 20 for lines in manifest["kernel_sizes"]] == [True, True]
    assert set(manifest["schedules"]) == {"forces", "virials", "portable_forces", "portable_virials"}

    assert {rung["candidates"] for rung in manifest["ladder"]} == {96, 192}
    assert [name for name, (a, b) in manifest["programs"].items() if a != b] == ["kernel_neighbours", "neighbours"]

    def calls_kernels(schedule: str) -> list[bool]:
        runs = [step["run"] for step in manifest["schedules"][schedule] if "run" in step]
        return [CALL.encode() in bundle.tensors[manifest["programs"][run][0]].tobytes() for run in runs]

    assert any(calls_kernels("forces")) and any(calls_kernels("virials"))
    assert not any(calls_kernels("portable_forces")) and not any(calls_kernels("portable_virials"))
    portable = export_model(model(), tmp_path / "b.so3k", platform="cuda", body="xla", ladder=ladder[:1])
    manifest = read_bundle(tmp_path / "b.so3k").manifest
    assert portable.body == "xla" and "kernels" not in manifest
    refreshed = {name for step in manifest["schedules"]["virials"] for name in step.get("refresh", ())}
    assert refreshed and refreshed <= set(manifest["moves"]["programs"])


def test_products_are_of_full_precision_unless_tf32_is_asked_for(tmp_path: Path) -> None:
    ladder = [rung for rung in gpu_ladder() if rung.neighbours == 64][:1]

    def precisions(wanted: str) -> set[str]:
        path = tmp_path / f"{wanted}.so3k"
        export_model(model(), path, wanted, platform="cuda", ladder=ladder)
        bundle = read_bundle(path)
        assert bundle.manifest["precision"] == wanted
        programs = [tensor.tobytes() for name, tensor in bundle.tensors.items() if name.startswith("programs/")]
        with make_ir_context() as context:
            texts = [str(stablehlo.deserialize_portable_artifact(context, program)) for program in programs]
        dots = [line for text in texts for line in text.splitlines() if "stablehlo.dot_general" in line]
        assert len(dots) > 20
        return {found for line in dots for found in re.findall(r"precision = \[(\w+), (?:\w+)\]", line) or ["none"]}

    assert precisions("float32") == {"HIGHEST"}
    assert precisions("tf32") == {"HIGH"}
    with pytest.raises(ValueError, match="GPUs compute in TF32, so give platform 'cuda'"):
        export_model(model(), tmp_path / "a.so3k", "tf32")


@pytest.mark.parametrize("body", ["fused", "xla"])
def test_a_tolerance_is_kept(tmp_path: Path, body: str) -> None:
    sharp = model(radial_basis="gaussian", radial_functions=24, radial_start=1.5)
    choices = [export_model(sharp, tmp_path / "a.so3k", ladder=LADDER, body=body, tables=t) for t in (1e-2, 1e-6)]
    assert [choice.body for choice in choices] == [body, body]
    loose, tight = (choice.tables["force_error"] for choice in choices)
    assert 0 < tight < 1e-6 < loose < 1e-2


def test_a_file_that_is_no_bundle_is_not_overwritten(tmp_path: Path) -> None:
    for name, content in (("train.extxyz", b"2\nenergy=1\nGa 0 0 0\nN 0 0 2\n"), ("weights", b"\x08\0\0\0\0\0\0\0{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WriteError, match=f"{name} is there and no bundle, and would be lost"):
            export_model(model(), tmp_path / name, ladder=LADDER)
        assert (tmp_path / name).read_bytes() == content
    (tmp_path / "a.so3k").touch()  # of mktemp
    for _ in range(2):
        export_model(model(), tmp_path / "a.so3k", ladder=LADDER)
    assert read_bundle(tmp_path / "a.so3k").manifest["body"] == "fused"


def test_what_is_asked_for_and_impossible_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.so3k"
    with pytest.raises(FusedError, match=r"do not compute heads = 8 \(at most 4\): export with body 'xla'"):
        export_model(model(heads=8), path, body="fused")
    with pytest.raises(FusedError, match="without tables: export with tables 'auto' or body 'xla'"):
        export_model(model(), path, body="fused", tables="off")
    with pytest.raises(TableError, match=r"and 1\.0e-30 is allowed: allow more, or export with body 'xla'"):
        export_model(model(), path, tables=1e-30)
    for wrong in (0.0, -1.0, float("nan"), "fine"):
        with pytest.raises(ValueError, match="give auto, off or the allowed change of a force"):
            export_model(model(), path, tables=wrong)
    assert not path.exists()
