import argparse
import json
from dataclasses import fields

import pytest

from pggan.config import (
    COMMON_OPTIONS,
    PRESETS,
    ConfigError,
    TrainConfig,
    add_options,
    format_help,
    resolve_config,
    spell_preset,
)

BASE = {"data": "synthetic", "resolution": 32, "channels": 3}


def test_command_line_beats_file_beats_preset_beats_default(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"preset": "cifar10", "fade_kimg": 5, "seed": 7}))
    config = resolve_config(BASE | {"seed": 8}, str(file))
    assert (config.seed, config.fade_kimg, config.gp_target, config.repeats) == (8, {4: 5}, 750, 4)


def test_a_resolved_config_round_trips_through_its_file(tmp_path):
    config = resolve_config(BASE | {"preset": "paper-v2", "batch_size": "4:32,16:8", "metrics": "none"})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    assert resolve_config({}, str(file)) == config


def test_resolution_and_channels_come_from_the_data():
    config = resolve_config({"data": "synthetic"})
    assert (config.resolution, config.channels, config.out) == (32, 3, "runs/synthetic-32")


@pytest.mark.parametrize(
    "option, value",
    [
        ("channels", "5"),
        ("channels", "x"),
        ("fmap_base", "0"),
        ("fmap_max", "-4"),
        ("latent_size", "0"),
        ("batch_size", "0"),
        ("batch_size", "-4"),
        ("batch_size", "16.5"),
        ("batch_size", "4:16,4:8"),
        ("batch_size", "8:16"),
        ("batch_size", "4:"),
        ("batch_size", ""),
        ("lr", "0"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("fade_kimg", "-1"),
        ("fade_kimg", "nan"),
        ("fade_kimg", "4:1,8:-1"),
        ("stabilize_kimg", "0"),
        ("stabilize_kimg", "4:1,8:0"),
        ("stabilize_kimg", "8:1"),
        ("total_kimg", "inf"),
        ("gp_target", "0"),
        ("ema_decay", "1.5"),
        ("loss", "hinges"),
        ("metrics", "fid,beauty"),
        ("metric_images", "1"),
        ("seed", "-1"),
        ("seed", "1e30"),
        ("precision", "fp8"),
        ("track", "paper"),
        ("preset", "mine"),
        ("mirror", "maybe"),
        ("repeats", "0"),
        ("resolution", "32.5"),
        ("data", 3),
        ("lr", []),
        ("preset", ["lsun"]),
        ("resume", ""),
        ("out", "a\0b"),
    ],
)
def test_invalid_values_are_rejected_with_one_sentence_that_names_the_option(option, value):
    with pytest.raises(ConfigError) as error:
        resolve_config(BASE | {option: value})
    text = str(error.value)
    assert text.startswith(("--" + option.replace("_", "-"), "DATA")) and "\n" not in text


@pytest.mark.parametrize("option", ["seed", "batch_size", "mirror", "loss", "metrics"])
def test_null_in_a_config_file_is_rejected_if_a_value_is_required(tmp_path, option):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({option: None}))
    with pytest.raises(ConfigError, match=option.replace("_", "-")):
        resolve_config(BASE, str(file))


def test_a_config_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"lr": 0.5}', encoding="utf-8-sig")
    assert resolve_config(BASE, str(file)).lr == {4: 0.5}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_spelled_as_it_can_be_typed(preset):
    parser = argparse.ArgumentParser()
    add_options(parser)
    typed = vars(parser.parse_args(spell_preset(preset).split()))
    typed = {name: value for name, value in typed.items() if value is not None}
    assert TrainConfig(**typed) == TrainConfig(**PRESETS[preset])


def test_what_a_preset_sets_does_not_include_the_users_own_options():
    options = {"data": "synthetic", "channels": 3, "preset": "cifar10-cpu", "resolution": 16, "lr": 0.004}
    text = spell_preset("cifar10-cpu", resolve_config(options))
    assert "--fmap-max 64" in text and "--batch-size 8" in text and "--lr" not in text and "--resolution" not in text


@pytest.mark.parametrize("text", ["1", "7", "5 percent"])
def test_fractions_that_are_not_clear_are_refused(text):
    with pytest.raises(
        ConfigError, match=r"--holdout: .*(1% or 100%; write either|write 5% or 0\.05|such as 5% or 0\.05)"
    ):
        TrainConfig(holdout=text)


def test_retired_options_in_a_config_file_are_ignored(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"rollback_lr": 0.25, "seed": 3}))
    assert resolve_config(BASE, str(file)).seed == 3


@pytest.mark.parametrize("text", ["not json", "[1]", '{"learning_rate": 1}', "[" * 100_000])
def test_a_bad_config_file_is_rejected(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="--config"):
        resolve_config(BASE, str(file))
    with pytest.raises(ConfigError, match="--config"):
        resolve_config(BASE, str(tmp_path / "missing.json"))


def test_every_options_help_states_its_default():
    assert all("default: " in format_help(f) for f in fields(TrainConfig))


OPTIONS = """
    data out preset budget resume resolution channels fit background allow_upscale max_bad labels mirror augment
    ada_target ada_kimg holdout arch growing fmap_base fmap_decay fmap_max latent_size first_layer hidden d_hidden
    mbstd_group minibatch_stddev equalized_lr pixel_norm fused_scale fade_kimg stabilize_kimg total_kimg growth
    growth_metric growth_share growth_window min_stabilize_kimg batch_size micro_batch lr d_lr optimizer
    adam_beta1 adam_beta2 n_critic repeats ema_decay burn_in_kimg decay_kimg power_ema
    loss penalty gp_weight gp_target r_weight penalty_every penalty_pixels clip
    drift label_smoothing label_weight scale_consistency max_skipped on_nan metrics metric_images metric_every_kimg
    inception_weights seed tick_kimg keep_last workers device precision cuda_graphs deterministic track
""".split()


def test_the_list_of_options_is_pinned():
    """Adding an option is a decision: each one is a line to read in --help-all, and a promise to keep."""
    assert [f.name for f in fields(TrainConfig)] == OPTIONS
    assert set(OPTIONS) >= COMMON_OPTIONS and len(COMMON_OPTIONS) <= 25
