from dataclasses import replace

from pggan.metrics import PROVENANCE_LABELS, Provenance

HOW = Provenance(metric_images=100, metric_reals=50, resolution=32, data="photos", data_digest="ab", resize="tf1")


def test_a_record_survives_the_line_of_a_log():
    line = {"images": 5, "fid": 1.5, **HOW.to_dict()}
    assert Provenance.from_line(line) == HOW
    assert "weights" not in HOW.to_dict() and set(HOW.to_dict()) - {"resolution"} <= PROVENANCE_LABELS.keys()


def test_results_compare_only_if_whatever_affects_them_is_the_same():
    for change in ({"metric_images": 200}, {"metric_reals": 51}, {"resolution": 16}, {"resize": "clean"}):
        assert not HOW.is_comparable(replace(HOW, **change))
    for change in ({"data": "/moved/photos"}, {"device": "cuda"}, {"seed": 3}, {"weights": "not recorded in HOW"}):
        assert HOW.is_comparable(replace(HOW, **change))
