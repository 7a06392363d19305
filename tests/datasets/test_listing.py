"""Which files are images, and their classes: the same for a folder, its zip and its tar."""

import json
import os
import stat
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from helpers import save_blanks, save_noise

from pggan.datasets import DataError, open_pyramid, open_source

LAYOUTS = ("folder", "zip", "tar")


def pack(folder, layout):
    """Return the path of the folder itself, or of a zip or tar of it; links stay links."""
    if layout == "folder":
        return str(folder)
    path = folder.with_name(f"{folder.name}.{layout}")
    if layout == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(folder, ".")
        return str(path)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_symlink():
                link = zipfile.ZipInfo(name)
                link.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, os.readlink(file))
            elif file.is_file():
                archive.write(file, name)
    return str(path)


def count_classes(source):
    return dict(zip(source.classes, np.bincount(source.labels, minlength=len(source.classes)).tolist(), strict=True))


def make_run(folder, *parts):
    save_blanks(folder, "samples/fakes-00000608.png", "samples/reals-0016.png", "outputs/grid.png")
    for part in parts:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text("{}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "parts", [["config.json"], ["checkpoints/latest.pt"], ["config.json", "log.jsonl", "checkpoints/latest.pt"]]
)
def test_run_directories_among_the_images_are_skipped_and_reported(tmp_path, layout, parts):
    save_noise(tmp_path / "set", 4)
    original = open_source(pack(tmp_path / "set", layout))
    before = original.stamp(), original.content_digest()
    make_run(tmp_path / "set" / "runs" / "set-16", *parts)
    source = open_source(pack(tmp_path / "set", layout))
    assert len(source) == 4 and source.notes == ["skipped 3 images in runs/set-16/: a run directory"]
    if layout == "folder":
        assert (source.stamp(), source.content_digest()) == before  # the run resumes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_a_runs_files_are_skipped_if_it_writes_into_the_image_folder(tmp_path, layout):
    save_noise(tmp_path / "set", 4)
    save_noise(tmp_path / "set" / "samples", 2)
    make_run(tmp_path / "set", "config.json", "log.jsonl")
    source = open_source(pack(tmp_path / "set", layout))
    assert len(source) == 6 and "skipped 3 images in samples/ and outputs/" in source.notes[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copied_grids_of_a_run_are_skipped(tmp_path, layout):
    save_noise(tmp_path / "set", 4)
    save_blanks(tmp_path / "set" / "old", "reals-0016.png", "fakes-00000608.png")
    source = open_source(pack(tmp_path / "set", layout))
    assert len(source) == 4 and source.notes == ["skipped 2 images in old/: a run directory"]
    assert len(open_source(str(tmp_path / "set" / "old"))) == 2  # if specified, they are data


def test_images_in_a_folder_called_checkpoints_are_not_skipped(tmp_path):
    save_noise(tmp_path / "checkpoints", 4)
    (tmp_path / "config.json").write_text("{}")
    assert len(open_source(str(tmp_path))) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_only_resembles_a_run_is_not_skipped(tmp_path, layout):
    save_noise(tmp_path / "set" / "samples", 4)
    (tmp_path / "set" / "config.json").write_text("{}")
    (tmp_path / "set" / "samples" / "config.json").write_text("{}")
    assert len(open_source(pack(tmp_path / "set", layout))) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_generated_images_are_skipped_unless_their_folder_is_specified(tmp_path, layout):
    save_noise(tmp_path / "set", 4)
    save_noise(tmp_path / "set" / "more", 2, seed=1)
    (tmp_path / "set" / "more" / "dataset.json").write_text(json.dumps({"labels": None, "made_by": {}}))
    source = open_source(pack(tmp_path / "set", layout))
    assert len(source) == 4 and source.notes == ["skipped 2 images in more/: generated images"]
    assert len(open_source(pack(tmp_path / "set" / "more", layout))) == 2


def test_a_folder_with_only_runs_holds_no_images(tmp_path):
    make_run(tmp_path / "set-16", "config.json")
    with pytest.raises(DataError, match=r"contain no images .* skipped 3 images in set-16/: a run directory"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("layout", ["zip", "tar"])
def test_an_archive_with_skipped_images_gets_its_own_cache(tmp_path, layout):
    """Its size and times alone are not enough: an earlier version also read the run's images."""
    save_noise(tmp_path / "set", 4)
    make_run(tmp_path / "set" / "run", "config.json")
    source = open_source(pack(tmp_path / "set", layout))
    marked = source.stamp()
    source.is_usual = True
    assert source.stamp() != marked
    assert len(open_pyramid(open_source(pack(tmp_path / "set", layout)), 8, 3)) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["train/", "photos/train/"])
def test_classes_below_single_folders_are_found(tmp_path, layout, prefix):
    save_blanks(tmp_path / "set", f"{prefix}cat/1.png", f"{prefix}cat/2.png", f"{prefix}dog/1.png")
    (tmp_path / "set" / "README.txt").write_text("no image")
    assert count_classes(open_source(pack(tmp_path / "set", layout), labels=True)) == {"cat": 2, "dog": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_json_below_a_single_folder_is_found(tmp_path, layout):
    save_blanks(tmp_path / "set", "train/00000/1.png", "train/00001/1.png")
    table = {"labels": [["00000/1.png", 1], ["00001/1.png", 0]]}
    (tmp_path / "set" / "train" / "dataset.json").write_text(json.dumps(table))
    assert open_source(pack(tmp_path / "set", layout), labels=True).labels.tolist() == [1, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Validation"), ("test_set", "train2017", "val")])
def test_splits_are_not_classes(tmp_path, layout, names):
    save_blanks(tmp_path / "set", *(f"{name}/{label}/1.png" for name in names for label in ("cat", "dog")))
    path = pack(tmp_path / "set", layout)
    train = next(name for name in names if name.lower().startswith("train"))
    with pytest.raises(DataError, match=rf"contains the splits .*, not classes; .*pass .*{train}"):
        open_source(path, labels=True)
    source = open_source(path)
    assert len(source) == 2 * len(names) and "all splits are used" in source.notes[0]
    if layout == "folder":
        assert count_classes(open_source(f"{path}/{train}", labels=True)) == {"cat": 1, "dog": 1}


def test_splits_that_hold_images_directly_are_classes_with_a_note(tmp_path):
    save_blanks(tmp_path, "train/1.png", "test/1.png")
    source = open_source(str(tmp_path), labels=True)
    assert source.classes == ["test", "train"] and "look like splits" in source.notes[0]


@pytest.mark.parametrize("labels", [False, True])
def test_splits_in_the_class_folders_are_reported(tmp_path, labels):
    save_blanks(tmp_path, "cat/train/1.png", "cat/test/1.png", "dog/train/1.png")
    source = open_source(str(tmp_path), labels)
    assert len(source) == 3 and source.notes == ["all splits are used: test (1), train (2)"]


def test_missing_images_listed_in_a_dataset_json_are_reported(tmp_path):
    save_blanks(tmp_path, "1.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["1.png", 0], ["2.png", 0], ["3.png", 1]]}))
    (note,) = open_source(str(tmp_path), labels=True).notes
    assert note.endswith("dataset.json lists 2 images more than exist")


@pytest.mark.parametrize("with_json", [False, True])
def test_windows_separators_in_zips_are_read(tmp_path, with_json):
    save_blanks(tmp_path, "cat/1.png", "dog/1.png", "dog/2.png")
    table = {"labels": [["cat/1.png", 1], ["dog\\1.png", 0], ["dog/2.png", 0]]}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
            archive.writestr(f"photos\\{name}".replace("/", "\\"), (tmp_path / name).read_bytes())
        archive.writestr("photos\\dog\\._1.png", b"")
        archive.writestr("photos\\empty\\", b"")
        if with_json:
            archive.writestr("photos\\dataset.json", json.dumps(table))
    assert len(open_source(str(tmp_path / "set.zip"))) == 3
    source = open_source(str(tmp_path / "set.zip"), labels=True)
    assert (
        count_classes(source) == ({"dog": 2, "cat": 1} if with_json else {"cat": 1, "dog": 2}) and source.others == []
    )
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": table["labels"]}))
    (tmp_path / "set.zip").unlink()
    assert count_classes(open_source(str(tmp_path), labels=True)) == {"dog": 2, "cat": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_match_in_any_unicode_normalization(tmp_path, layout, forms):
    on_disk, in_json = (unicodedata.normalize(form, "été/é.png") for form in forms)
    save_blanks(tmp_path / "set", on_disk, "a/1.png")
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": [[in_json, 1], ["a/1.png", 0]]}))
    assert open_source(pack(tmp_path / "set", layout), labels=True).labels.tolist() == [0, 1]


def test_an_image_with_two_labels_is_rejected(tmp_path):
    save_blanks(tmp_path, "1.png", "2.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["1.png", 0], ["1.png", 0], ["2.png", 0]]}))
    assert len(open_source(str(tmp_path), labels=True)) == 2
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["1.png", 0], ["2.png", 0], ["1.png", 3]]}))
    with pytest.raises(DataError, match=r"lists 1\.png under two labels, 0 and 3"):
        open_source(str(tmp_path), labels=True)


def test_a_json_error_reports_line_and_column(tmp_path):
    save_blanks(tmp_path, "1.png")
    (tmp_path / "dataset.json").write_text('{"labels": [\n["1.png", 0],\n]}')
    with pytest.raises(DataError, match=r"dataset\.json is not JSON like .* line [23], column \d+"):
        open_source(str(tmp_path), labels=True)


def test_empty_classes_keep_their_numbers_but_not_the_name_of_a_real_class(tmp_path):
    save_blanks(tmp_path, "0/1.png", "1/1.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["0/1.png", 1], ["1/1.png", 3]]}))
    source = open_source(str(tmp_path), labels=True)
    assert source.classes == ["0 (empty)", "0", "2", "1"] and source.labels.tolist() == [1, 3]


def test_class_folders_that_are_links_keep_their_images(tmp_path):
    save_blanks(tmp_path, "set/all/cat/1.png", "set/all/dog/1.png", "elsewhere/2.png", "set/.store/owl/3.png")
    for name, target in (("cat", "all/cat"), ("dog", "all/dog"), ("bird", "../elsewhere"), ("owl", ".store/owl")):
        (tmp_path / "set" / name).symlink_to(target)
    source = open_source(str(tmp_path / "set"), labels=True)
    assert count_classes(source) == {"bird": 1, "cat": 1, "dog": 1, "owl": 1}
    assert "all/cat/ (used as cat/), all/dog/ (used as dog/)" in source.notes[0]


def test_real_class_folders_take_precedence_over_links_to_them(tmp_path):
    save_blanks(tmp_path, "dog/1.png", "owl/1.png")
    (tmp_path / "a").symlink_to("dog")
    (tmp_path / "owl" / "z").symlink_to("../dog")
    source = open_source(str(tmp_path), labels=True)
    assert count_classes(source) == {"dog": 1, "owl": 1}
    assert source.notes == [
        "skipped 2 folders already used under another name: a/ (used as dog/), owl/z/ (used as dog/)"
    ]


def test_circular_and_broken_links_are_reported(tmp_path):
    save_blanks(tmp_path, "cat/1.png", "dog/1.png")
    for name, target in (("cat/back", ".."), ("itself", "itself"), ("gone", "nowhere")):
        (tmp_path / name).symlink_to(target)
    source = open_source(str(tmp_path), labels=True)
    assert count_classes(source) == {"cat": 1, "dog": 1} and source.others == []
    assert "cat/back/ (used as ./)" in source.notes[0] and source.notes[1] == "skipped 2 broken links: gone, itself"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_to_images_are_followed(tmp_path, layout):
    save_noise(tmp_path / "set" / "cat", 2)
    save_blanks(tmp_path / "set", "dog/1.png")
    (tmp_path / "set" / "dog" / "2.png").symlink_to("../cat/0000.png")
    (tmp_path / "set" / "dog" / "3.png").symlink_to("2.png")
    source = open_source(pack(tmp_path / "set", layout), labels=True)
    assert count_classes(source) == {"cat": 2, "dog": 3}
    first, *copies = (source.read_image(i, 8, 3).tobytes() for i in (0, 3, 4))
    assert copies == [first, first]


@pytest.mark.parametrize("layout", ["zip", "tar"])
def test_links_out_of_an_archive_or_to_folders_are_reported(tmp_path, layout):
    save_blanks(tmp_path / "set", "cat/1.png", "all/dog/1.png")
    (tmp_path / "set" / "dog").symlink_to("all/dog")
    (tmp_path / "set" / "cat" / "2.png").symlink_to("/elsewhere/2.png")
    source = open_source(pack(tmp_path / "set", layout))
    assert len(source) == 2 and source.notes == [source.notes[0]]
    assert "skipped 2 links to folders or outside the archive: " in source.notes[0]
    assert "cat/2.png" in source.notes[0] and "dog" in source.notes[0]


def test_hard_links_in_tars_are_resolved_in_any_spelling(tmp_path):
    save_blanks(tmp_path, "1.png")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "1.png", "cat/1.png")
        for name, target in (("dog/1.png", "./cat/1.png"), ("owl/1.png", "cat/../cat/1.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    assert count_classes(open_source(str(tmp_path / "set.tar"), labels=True)) == {"cat": 1, "dog": 1, "owl": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_files_are_skipped_everywhere(tmp_path, layout):
    save_blanks(
        tmp_path / "set", "1.PNG", "a/2.jpeg", "._1.png", ".ipynb_checkpoints/1-checkpoint.png", "a/.thumbs/2.png"
    )
    save_blanks(tmp_path / "set", "__MACOSX/a/x.png", "a/__MACOSX/x.png", "a/@eaDir/1.png/THUMB.jpg", "#recycle/1.png")
    (tmp_path / "set" / "Thumbs.db").write_text("")
    source = open_source(pack(tmp_path / "set", layout))
    assert len(source) == 2 and source.others == ["Thumbs.db"]


def collect_notes(folder, *names):
    save_blanks(folder, *names)
    return open_source(str(folder), labels=True).notes


def test_a_class_named_like_a_split_is_reported(tmp_path):
    (note,) = collect_notes(tmp_path, "cat/1.png", "dog/1.png", "test/1.png")
    assert note == f"classes that may be splits: test; if so, move them out of {tmp_path}"


@pytest.mark.parametrize(
    "names", ["Train/0/1 Train/1/1 Test/1 Meta/1", "seg_train/seg_train/sea/1 seg_test/seg_test/sea/1 seg_pred/1"]
)
def test_splits_next_to_other_folders_trigger_a_warning(tmp_path, names):
    (note,) = collect_notes(tmp_path, *(f"{name}.png" for name in names.split()))
    assert note.startswith("warning: ") and note.endswith(f"; if so, pass {tmp_path}/{names.split('/')[0]}")


def test_classes_with_the_same_subfolders_trigger_a_warning(tmp_path):
    names = [f"{part}/{name}/1.png" for part in ("photos", "scans") for name in ("cat", "dog")]
    (note,) = collect_notes(tmp_path, *names)
    assert "the classes photos, scans have the same subfolders (cat, dog)" in note
    assert f"pass {tmp_path}/photos" in note


def test_classes_with_different_subfolders_trigger_no_warning(tmp_path):
    assert collect_notes(tmp_path, "cat/1.png", "dog/pug/1.png", "dog/poodle/1.png", "owl/1.png") == []


@pytest.mark.parametrize(
    "parts", [("trainA", "testA"), ("train", "unlabeled"), ("Train", "Holdout"), ("train", "extra")]
)
def test_splits_are_recognized_by_many_names(tmp_path, parts):
    save_blanks(tmp_path, *(f"{part}/{name}/1.png" for part in parts for name in ("cat", "dog")))
    with pytest.raises(DataError, match=f"; pass {tmp_path}/{parts[0]}$"):
        open_source(str(tmp_path), labels=True)


def test_class_folders_without_images_are_reported(tmp_path):
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "1.heic").write_text("")
    (tmp_path / "README").write_text("")
    assert collect_notes(tmp_path, "cat/1.png", "dog/1.png") == ["folders without images are not classes: fox"]


def test_an_unused_dataset_json_is_reported(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "dataset.json").write_text(json.dumps({"labels": [["1.png", 3]]}))
    notes = collect_notes(tmp_path, "cat/1.png", "dog/1.png")
    assert notes == ["the classes come from the class folders; skipped cat/dataset.json"]
