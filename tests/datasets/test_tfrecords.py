"""Reading files written by TensorBoard's record writer and protobuf's serializer of tf.train.Example."""

import contextlib

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from helpers import read_pixels
from tensorboard.summary.writer.record_writer import RecordWriter

from pggan.datasets import DataError, open_pyramid, open_source
from pggan.datasets.tfrecords import parse_example

BYTES, INT64, MESSAGE, OPTIONAL, REPEATED = 12, 3, 11, 1, 3
MESSAGES = {  # the public definitions of tf.train.Example: (name, number, type, label, message)
    "BytesList": [("value", 1, BYTES, REPEATED, None)],
    "Int64List": [("value", 1, INT64, REPEATED, None)],
    "Feature": [("bytes_list", 1, MESSAGE, OPTIONAL, "BytesList"), ("int64_list", 3, MESSAGE, OPTIONAL, "Int64List")],
    "FeatureEntry": [("key", 1, BYTES, OPTIONAL, None), ("value", 2, MESSAGE, OPTIONAL, "Feature")],
    "Features": [("feature", 1, MESSAGE, REPEATED, "FeatureEntry")],  # a map is a list of such entries
    "Example": [("features", 1, MESSAGE, OPTIONAL, "Features")],
}


def make_example_class():
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, content in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, field_type, label, message_type in content:
            message.field.add(
                name=field,
                number=number,
                type=field_type,
                label=label,
                type_name=f".t.{message_type}" if message_type else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Example = make_example_class()


def serialize_example(image):
    message = Example()
    shape, data = message.features.feature.add(key=b"shape"), message.features.feature.add(key=b"data")
    shape.value.int64_list.value.extend(image.shape)
    data.value.bytes_list.value.append(image.tobytes())
    return message.SerializeToString()


def write(path, records):
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)


def write_official_dataset(folder, images, labels=None):
    """Write images [N, C, r, r] as the official dataset tool does, and return the folder."""
    folder.mkdir()
    level = images.astype(np.float32)
    for lod in range(images.shape[-1].bit_length() - 1, 1, -1):
        if level.shape[-1] != 1 << lod:
            level = (
                level[:, :, 0::2, 0::2] + level[:, :, 0::2, 1::2] + level[:, :, 1::2, 0::2] + level[:, :, 1::2, 1::2]
            ) * 0.25
        write(
            folder / f"set-r{lod:02d}.tfrecords", map(serialize_example, np.rint(level).clip(0, 255).astype(np.uint8))
        )
    if labels is not None:
        with open(folder / "set-rxx.labels", "wb") as file:
            np.save(file, np.eye(labels.max() + 1, dtype=np.float32)[labels])
    return folder


IMAGES = {c: np.random.default_rng(c).integers(0, 256, (12, c, 32, 32), dtype=np.uint8) for c in (1, 3)}


@pytest.mark.parametrize("channels", [1, 3])
def test_official_records_are_read_at_every_level(tmp_path, channels):
    folder = write_official_dataset(tmp_path / "set", IMAGES[channels])
    source = open_source(str(folder))
    assert len(source) == 12 and source.labels is None and source.header(0)[:2] == (32, 32)
    for i in range(12):
        assert (read_pixels(source, i, 32, channels) == IMAGES[channels][i]).all()


def test_the_pyramid_matches_the_lower_levels_that_the_official_tool_wrote(tmp_path):
    source = open_source(str(write_official_dataset(tmp_path / "set", IMAGES[3])))
    pyramid = open_pyramid(source, 32, 3)
    for r in (4, 8, 16, 32):
        stored = np.stack([np.asarray(source.read_image(i, r, 3)).transpose(2, 0, 1) for i in range(12)])
        assert stored.shape[-1] == r and (pyramid.read_images(r, range(12)) == stored).all()


def test_labels_are_read_from_one_hot_rows(tmp_path):
    labels = np.array([2, 0, 1, 3, 2, 0, 1, 3, 3, 3, 0, 0])
    source = open_source(str(write_official_dataset(tmp_path / "set", IMAGES[1], labels)), labels=True)
    assert source.labels.tolist() == labels.tolist() and source.classes == ["0", "1", "2", "3"]


def test_missing_or_invalid_labels_are_rejected(tmp_path):
    folder = write_official_dataset(tmp_path / "set", IMAGES[1])
    with pytest.raises(DataError, match=r"has no \.labels file"):
        open_source(str(folder), labels=True)
    with open(folder / "set-rxx.labels", "wb") as file:
        np.save(file, np.eye(3))
    with pytest.raises(DataError, match=r"holds no one-hot labels \[12, classes\]"):
        open_source(str(folder), labels=True)


def test_damaged_files_are_rejected_and_damaged_records_count_as_bad_images(tmp_path):
    folder = write_official_dataset(tmp_path / "set", IMAGES[1])
    path = folder / "set-r05.tfrecords"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"is damaged: the record at byte .* extends beyond the file's end"):
        open_source(str(folder))
    path.write_bytes(b"\xff" * 8 + whole[8:])
    with pytest.raises(DataError, match="is damaged: the record at byte 0"):
        open_source(str(folder))
    path.write_bytes(whole.replace(b"shape", b"shave", 1))
    with pytest.raises(ValueError, match="without shape and data"):
        open_source(str(folder)).read_image(0, 32, 1)
    write(path, [serialize_example(IMAGES[1][0])] * 11)
    with pytest.raises(DataError, match=r"different numbers of records \(11, 12\)"):
        open_source(str(folder))


@pytest.mark.parametrize("seed", range(200))
def test_noise_in_a_record_causes_at_most_a_bad_image(tmp_path, seed):
    rng = np.random.default_rng(seed)
    record = bytearray(serialize_example(IMAGES[1][0][:, :4, :4]))
    for place in rng.integers(len(record), size=3):
        record[place] = rng.integers(256)
    with contextlib.suppress(ValueError):
        assert parse_example(bytes(record)).dtype == np.uint8


def test_two_datasets_in_one_folder_are_rejected(tmp_path):
    folder = write_official_dataset(tmp_path / "set", IMAGES[1])
    write(folder / "other-r06.tfrecords", [b""])
    with pytest.raises(DataError, match="more than one TFRecords dataset"):
        open_source(str(folder))
