"""Parsers of options that several commands share."""

import argparse
from dataclasses import replace

import pytest

from pggan.config import ConfigError
from pggan.use.options import find_class, format_seeds, int_parser, parse_fraction, parse_seeds


@pytest.mark.parametrize(
    "text, seeds",
    [("0-3", [0, 1, 2, 3]), ("7", [7]), ("3,8,20-22", [3, 8, 20, 21, 22]), ("5-5", [5]), ("9,2", [9, 2])],
)
def test_seeds_are_parsed(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text, message",
    [
        ("9-3", "3-9"),
        ("1,2,1", "twice"),
        ("0-4,3", "twice"),
        ("", "neither"),
        ("a-b", "neither"),
        ("-3", "neither"),
        ("1-", "neither"),
        ("1.5", "neither"),
        ("4294967296", "too large"),
        ("0-4000000000", "more than"),
        (",".join(f"{i}000000-{i}999998" for i in range(2)), "more than"),
    ],
)
def test_invalid_seeds_are_rejected(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse_seeds(text)


def test_seeds_are_abbreviated_in_file_names():
    assert [format_seeds(parse_seeds(text)) for text in ("4", "0-63", "3,8,9")] == ["4", "0-63", "3,8,9"]
    assert format_seeds(list(range(0, 200, 2))) == "100-from-0"


def test_numbers_out_of_range_are_rejected():
    assert int_parser(2, 9)("9") == 9 and parse_fraction("0.5") == 0.5
    for parse, text in (
        (int_parser(2, 9), "1"),
        (int_parser(2, 9), "x"),
        (parse_fraction, "1.1"),
        (parse_fraction, "nan"),
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def test_classes_without_training_images_are_rejected(labeled):
    model = replace(labeled, class_counts=(4, 0, 2))
    assert [find_class(model, text) for text in ("cat", "2")] == [0, 2]
    for text in ("dog", "1"):
        with pytest.raises(ConfigError, match="class 'dog' had no training images; use one of cat, owl"):
            find_class(model, text)


def test_class_names_that_are_all_numbers_match_by_value(labeled):
    model = replace(labeled, classes=["01", "10", "2"])
    assert [find_class(model, text) for text in ("1", "01", "10", "02")] == [0, 0, 1, 2]
    with pytest.raises(ConfigError, match=r"no class '0'; use one of 01, 10, 2$"):
        find_class(model, "0")


def test_classes_are_found_by_name_or_number(labeled, trained):
    assert [find_class(labeled, text) for text in ("dog", "2")] == [1, 2]
    for model, text, message in ((labeled, "cow", "cat, dog, owl"), (labeled, "3", "3"), (trained, "cat", "without")):
        with pytest.raises(ConfigError, match=message):
            find_class(model, text)
