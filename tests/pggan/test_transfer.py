"""Transfer of weights to other classes: the classes that remain keep theirs."""

import pytest
import torch

from pggan.networks import build
from pggan.training.transfer import find_kept_classes, find_label_axes, move_classes

PLAIN = {"resolution": 16, "channels": 3, "fmap_base": 64, "fmap_decay": 1.0, "fmap_max": 16}
SHAPES = {
    "pggan": (PLAIN | {"latent_size": 16}, PLAIN),
    "msg": (PLAIN | {"latent_size": 16}, PLAIN),
    "dcgan": (PLAIN | {"latent_size": 16}, PLAIN),
    "r3gan": (PLAIN | {"latent_size": 16}, PLAIN),
    "mlp": (
        {"resolution": 16, "channels": 3, "hidden": [8, 8], "latent_size": 16},
        {"resolution": 16, "channels": 3, "hidden": [8]},
    ),
}


def make(arch, network, classes, seed):
    torch.manual_seed(seed)
    arguments = {"arch": arch, "label_size": len(classes), **SHAPES[arch][network == "discriminator"]}
    return build(network, arguments).eval(), arguments


def transfer(arch, network, old, new):
    """Return a network and its transfer to other classes, both in float64."""
    before, _ = make(arch, network, old, 0)
    after, arguments = make(arch, network, new, 1)
    after.load_state_dict(move_classes(before.state_dict(), after.state_dict(), network, arguments, old, new))
    return before.double(), after.double()


def compute_logits(network, classes, name):
    _, labels = network(torch.linspace(-1, 1, 4 * 3 * 16 * 16, dtype=torch.float64).view(4, 3, 16, 16))
    return labels[:, classes.index(name)]


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize(
    "old, new", [("ab", "abc"), ("abc", "ac"), ("ab", "bc"), ("ba", "ab"), ("", "ab"), ("ab", ""), ("ab", "cde")]
)
def test_scores_and_the_logits_of_remaining_classes_are_kept(arch, old, new):
    before, after = transfer(arch, "discriminator", list(old), list(new))
    images = torch.linspace(-1, 1, 4 * 3 * 16 * 16, dtype=torch.float64).view(4, 3, 16, 16)
    assert torch.allclose(before(images)[0], after(images)[0])
    for name in set(old) & set(new):
        assert torch.allclose(compute_logits(before, old, name), compute_logits(after, new, name))


@pytest.mark.parametrize("old, new", [("ab", "abc"), ("abc", "ac"), ("ab", "bc"), ("ba", "ab")])
def test_images_of_remaining_classes_are_kept(old, new):
    before, after = transfer("pggan", "generator", list(old), list(new))
    z = torch.randn(4, 16, dtype=torch.float64)
    for name in set(old) & set(new):
        images = [
            network(z, torch.eye(len(classes), dtype=torch.float64)[classes.index(name)].expand(4, -1))
            for network, classes in ((before, old), (after, new))
        ]
        assert torch.allclose(*images, atol=1e-6)


def test_latents_give_the_same_images_with_and_without_classes():
    before, after = transfer("pggan", "generator", [], ["a", "b"])
    after.dense.weight.data[16:] = 0
    z = torch.randn(4, 16, dtype=torch.float64) * 100  # so large that the label's 1 is negligible
    assert torch.allclose(before(z), after(z, torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]), atol=1e-3)


def test_new_classes_start_as_in_a_new_network():
    fresh, _ = make("pggan", "generator", list("abc"), 1)
    _, after = transfer("pggan", "generator", list("ab"), list("abc"))
    assert torch.equal(after.dense.weight[-1].float(), fresh.dense.weight[-1])


def test_renamed_classes_keep_their_order():
    assert find_kept_classes(["0", "1"], ["cat", "dog"]) is None and find_kept_classes(["a", "b"], ["b", "c"]) == ["b"]
    before, after = transfer("pggan", "discriminator", ["0", "1"], ["cat", "dog"])
    assert torch.equal(before.output.weight, after.output.weight)


@pytest.mark.parametrize("arch", SHAPES)
def test_one_layer_of_each_network_depends_on_the_classes(arch):
    for network in ("generator", "discriminator"):
        names = find_label_axes(network, make(arch, network, "ab", 0)[1])
        assert len({name.rpartition(".")[0] for name in names}) == 1  # its weight and, if it has one, its bias
