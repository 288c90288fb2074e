"""Settings: defaults, files, overrides, and what is said about the ones that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from triptych.config import STAGES, CutConfig, DiscoverConfig, PredictConfig, Settings, SimulateConfig, TrainConfig
from triptych.errors import InputError
from triptych.settings import format_defaults, load_config, stage_settings


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def all_fields(kind: type[Settings], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, field in kind.model_fields.items():
        found.append((f"{prefix}{name}", field))
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found += all_fields(field.annotation, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_printed_defaults_load_back_to_the_defaults(stage: str, tmp_path: Path) -> None:
    kind = stage_settings(stage)
    assert load_config(kind, write(tmp_path, format_defaults(kind))) == kind()


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_described_and_printed(stage: str) -> None:
    kind = stage_settings(stage)
    text = format_defaults(kind)
    for name, field in all_fields(kind):
        assert field.description, f"{name} has no description"
        assert f"# {field.description}" in text
        assert f"{name.rpartition('.')[2]}:" in text


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SimulateConfig().seed = 3  # type: ignore[misc]


def test_file_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "particles: 10\nseed: 1\nspecimen: {gap: 5}\nacquisition:\n")
    config = load_config(SimulateConfig, file, ["seed=2", "snr=[0.1, 0.2]", "specimen.contact_share=0.5", "classes=[a, b]"])
    assert (config.particles, config.seed, config.snr, config.classes) == (10, 2, (0.1, 0.2), ("a", "b"))
    assert (config.specimen.gap, config.specimen.contact_share) == (5, 0.5)
    assert config.acquisition == SimulateConfig().acquisition


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(TrainConfig, write(tmp_path, "# nothing\n")) == TrainConfig()


def test_exponent_without_a_point_is_a_number() -> None:
    assert load_config(TrainConfig, None, ["learning_rate=2e-3"]).learning_rate == 0.002


@pytest.mark.parametrize("word", ["none", "null", "None"])
def test_none_is_no_folder_of_that_name(word: str) -> None:
    assert load_config(TrainConfig, None, [f"initial_model={word}"]).initial_model is None


def test_one_entry_of_a_table() -> None:
    table = load_config(SimulateConfig, None, ["acquisition.ctf_correction.none=0"]).acquisition.ctf_correction
    assert table == {**SimulateConfig().acquisition.ctf_correction, "none": 0}
    config = load_config(CutConfig, None, ["radius.ribosome=120", "radius.7=50", "names.1=ribosome"])
    assert (config.radius, config.names) == ({"ribosome": 120, "7": 50}, {1: "ribosome"})


@pytest.mark.parametrize(
    ("kind", "override", "words"),
    [
        (SimulateConfig, "particels=3", ["'particels'", "did you mean 'particles'", "triptych config simulate"]),
        (SimulateConfig, "gap=3", ["did you mean 'specimen.gap'"]),
        (SimulateConfig, "specimn.gap=3", ["'specimn.gap'", "did you mean 'specimen.gap'"]),
        (SimulateConfig, "seed.x=3", ["seed", "nothing inside"]),
        (SimulateConfig, "specimen=3", ["specimen is 3", "group of settings", "gap"]),
        (SimulateConfig, "seed", ["'seed'", "key=value"]),
        (SimulateConfig, "seed=[1", ["not valid YAML"]),
        (SimulateConfig, "particles=-3", ["particles is -3, but must be a whole number above 0"]),
        (SimulateConfig, "particles=2.5", ["particles is 2.5, but must be a whole number"]),
        (SimulateConfig, "particles=many", ["particles is 'many', but must be a whole number"]),
        (SimulateConfig, "particles=", ["'particles=', which has no value"]),
        (SimulateConfig, "box_size=41", ["box_size is 41", "divides by 8"]),
        (SimulateConfig, "voxel_size=0", ["voxel_size is 0, but must be a number of at least 0.1 and of at most 1000"]),
        (SimulateConfig, "voxel_size=.inf", ["voxel_size is .inf"]),
        (SimulateConfig, "none_share=1", ["none_share is 1", "at least 0 and below 1"]),
        (SimulateConfig, "snr=0.1", ["snr is 0.1, but must be null or a list [low, high]"]),
        (SimulateConfig, "snr=[0, 0.1]", ["snr is 0 in place 1", "above 0"]),
        (SimulateConfig, "snr=[1, 1e8]", ["snr is 1e+08, but at most 10,000", "`signal`"]),
        (SimulateConfig, "snr=[0.3, 0.1]", ["snr is a range [low, high], but 0.3 is above 0.1"]),
        (SimulateConfig, "acquisition.tilt_max=[60, 50]", ["acquisition.tilt_max is a range [low, high], but 60 is above 50"]),
        (SimulateConfig, "acquisition.ctf_correction.flip=1", ["'flip'", "did you mean 'phase_flip'"]),
        (TrainConfig, "network.tasks=[class, msk]", ["network.tasks is 'msk' in place 2", "class, mask, density"]),
        (TrainConfig, "network.tasks=[class, class]", ["tasks is [class, class]", "once"]),
        (SimulateConfig, "classes=[groel, groel]", ["classes is [groel, groel]", "once"]),
        (TrainConfig, "network.tasks=[]", ["network.tasks is []", "1 or more"]),
        (TrainConfig, "device=cuda", ["device is 'cuda', but must be one of auto, cpu, gpu"]),
        (TrainConfig, "crop_size=7", ["crop_size is 7, but must be null or a whole number", "divides by 8"]),
        (PredictConfig, "contrast=black", ["contrast is 'black'", "dark, bright, auto"]),
        (PredictConfig, "write_masks=7", ["write_masks is 7, but must be true or false"]),
    ],
)
def test_bad_override_is_explained_in_a_sentence(kind: type[Settings], override: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_config(kind, None, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("particles: 10\nparticels: 3\n", ["settings.yaml", "'particels'", "did you mean 'particles'"]),
        ("specimen:\n  gap: -1\n", ["specimen.gap is -1"]),
        ("specimen: 3\n", ["specimen is 3", "group of settings"]),
        ("seed: 1\nseed: 2\n", ["'seed' is given twice in line 2"]),
        ("- a\n- b\n", ["[a, b]", "key: value"]),
        ("a: [1\n", ["not valid YAML"]),
        ("a: \x00\n", ["not valid YAML"]),
        ("seed: !!python/object/apply:os.getpid []\n", ["not valid YAML"]),
    ],
)
def test_bad_file_is_explained_in_a_sentence(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_config(SimulateConfig, write(tmp_path, text))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_config(SimulateConfig, tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="not a text file"):
        load_config(SimulateConfig, tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not a text file"):
        load_config(SimulateConfig, tmp_path / "binary")


@pytest.mark.parametrize(
    ("kind", "overrides", "words"),
    [
        (TrainConfig, ["loss.balance=gradient", "loss.mask_weight=0"], ["loss.mask_weight is 0", "leave that task out of network.tasks"]),
        (DiscoverConfig, ["poses=there", "particles=all"], ["poses is there", "leave out poses"]),
    ],
)
def test_settings_that_contradict_each_other(kind: type[Settings], overrides: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load_config(kind, None, overrides)
    assert all(word in str(error.value) for word in words)


def test_several_faults_are_all_named() -> None:
    with pytest.raises(InputError) as caught:
        load_config(SimulateConfig, None, ["particles=-1", "specimen.gap=-2"])
    assert "particles is -1" in str(caught.value)
    assert "specimen.gap is -2" in str(caught.value)


def test_unknown_stage() -> None:
    with pytest.raises(InputError, match="did you mean 'simulate'"):
        stage_settings("simulat")


WORDS = st.text(alphabet="abcdefgh._=[]{}0123456789-:, ", max_size=20)


@given(key=st.sampled_from([name for name, _ in all_fields(SimulateConfig)]) | WORDS, value=WORDS)
def test_any_override_loads_or_is_explained(key: str, value: str) -> None:
    try:
        load_config(SimulateConfig, None, [f"{key}={value}"])
        explained = ""
    except InputError as error:
        explained = str(error)
    assert "\n" not in explained
