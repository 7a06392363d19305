"""Compare recipes at equal computing time: train one for some seconds of one core, then score its images.

    python benchmarks/recipes.py .assets/cifar10/train.npz --seconds 200 --r1 0.05 --r2 0.05 --penalty-every 8

Time is the process's own (CPU) time, so that other work on the machine does not matter. The loop is shorter than
train.py's: it has no checkpoints, and stages end after fractions of the time instead of numbers of images. Networks,
losses and metrics are the package's. Results are appended to --results as one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.datasets.synthetic import classify
from pggan.metrics.features import Features, FeatureStatistics
from pggan.metrics.fid import FID
from pggan.metrics.inception import Inception
from pggan.metrics.kid import KID
from pggan.metrics.mind import MIND
from pggan.metrics.modes import MIN_SHARE
from pggan.metrics.weights import read_state_dict
from pggan.networks import Discriminator, Generator
from pggan.networks.baselines import DCGANDiscriminator, DCGANGenerator
from pggan.networks.layers import downscale, upscale
from pggan.training.augment import Augmentation
from pggan.training.losses import ADVERSARIAL, Loss
from pggan.training.steps import freeze_weights, update_ema

RESOLUTIONS = (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=".npz of 32x32 RGB images, uint8 [N, 32, 32, 3] or [N, 3, 32, 32]")
    parser.add_argument("--name", default="", help="label in the results")
    parser.add_argument("--seconds", type=float, default=200, help="CPU time of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arch", choices=("progressive", "dcgan"), default="progressive")
    parser.add_argument("--fmap-base", type=int, default=512)
    parser.add_argument("--fmap-decay", type=float, default=1.0)
    parser.add_argument("--fmap-max", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--d-lr-factor", type=float, default=1.0, help="D's learning rate, relative to --lr")
    parser.add_argument("--beta1", type=float, default=0.0)
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--mbstd-group", type=int, default=4)
    parser.add_argument("--augment", choices=("none", "diffaug"), default="none")
    parser.add_argument("--loss", choices=tuple(ADVERSARIAL), default="relativistic")
    parser.add_argument("--r1", type=float, default=0.0, help="weight of half the squared gradient norm at real images")
    parser.add_argument("--r2", type=float, default=0.0, help="the same at generated images")
    parser.add_argument("--gp", type=float, default=0.0, help="weight of the gradient penalty")
    parser.add_argument("--drift", type=float, default=0.0)
    parser.add_argument("--penalty-every", type=int, default=1)
    parser.add_argument(
        "--shares",
        default="0.02,0.06,0.15",
        help="fractions of the time of all stages but the last; 0,0,0 for a DCGAN, which has one stage",
    )
    parser.add_argument("--decay", type=float, default=0.3, help="fraction of the time in which the rate falls to 0")
    parser.add_argument(
        "--half-life", default="4000", help="of the moving averages, in images, separated by commas; each is scored"
    )
    parser.add_argument("--fp32", action="store_true", help="instead of bf16")
    parser.add_argument(
        "--num-images", type=int, default=1000, help="generated images to score, at least 1,000 for KID"
    )
    parser.add_argument("--real-images", type=int, default=5000, help="real images to score against")
    parser.add_argument("--inception-weights", type=Path, default=Path(".assets/inception/pool3.pt"))
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = read_images(options.data)
    averages, trained = train(options, images)
    for half_life, average in averages.items():
        line = json.dumps(trained | {"half_life": half_life} | score(options, average, images), default=str)
        with options.results.open("a") as file:
            print(line, file=file)
        print(line)


def read_images(path: str) -> Tensor:
    """Return uint8 images [N, 3, 32, 32] of an .npz file; gray ones of 28x28 are padded with black."""
    with np.load(path) as file:
        images = torch.from_numpy(file[file.files[0]])
    if images.ndim == 3:
        return F.pad(images, (2, 2, 2, 2))[:, None].repeat(1, 3, 1, 1)
    return images if images.shape[1] == 3 else images.permute(0, 3, 1, 2).contiguous()


class Networks:
    """Both networks, G's moving averages and the optimizers; takes steps with the recipe of the options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.steps, self.images = options, 0, 0
        maps = {"fmap_base": options.fmap_base, "fmap_decay": options.fmap_decay, "fmap_max": options.fmap_max}
        if options.arch == "dcgan":
            self.G: nn.Module = DCGANGenerator(32, 3, 0, latent_size=options.fmap_max, activation="relu", **maps)
            self.D: nn.Module = DCGANDiscriminator(32, 3, 0, **maps)
        else:
            self.G, self.D = Generator(32, **maps), Discriminator(32, mbstd_group=options.mbstd_group, **maps)
        for network in (self.G, self.D):
            network.to(memory_format=torch.channels_last)
        half_lives = map(float, options.half_life.split(","))
        self.averages = {half_life: copy.deepcopy(self.G).requires_grad_(False) for half_life in half_lives}
        self.g_adam, self.d_adam = (
            torch.optim.Adam(n.parameters(), options.lr, (options.beta1, options.beta2), fused=True)
            for n in (self.G, self.D)
        )
        self.augment, self.rng = Augmentation(options.augment), np.random.default_rng(options.seed)

    def step(self, images: Tensor, alpha: float, lr: float) -> None:
        """Update D, G and the averages on uint8 images [N, 3, r, r]."""
        options, batch, side = self.options, len(images), images.shape[-1]
        self.g_adam.param_groups[0]["lr"] = lr
        self.d_adam.param_groups[0]["lr"] = lr * options.d_lr_factor
        loss, x = self.loss(), prepare(images, alpha)

        def critic(inputs: Tensor, batches: int = 1) -> tuple[Tensor, Tensor]:
            noise = self.augment.draw(self.rng, len(inputs), side)
            return self.D(self.augment(inputs, torch.ones(()), noise), resolution=side, alpha=alpha, batches=batches)

        with torch.autocast("cpu", torch.bfloat16, enabled=not options.fp32):
            with torch.no_grad():
                x_fake = self.G(torch.randn(batch, self.G.latent_size), resolution=side, alpha=alpha)
            d_loss = loss.discriminator_loss(critic, x, x_fake, torch.rand(batch, 1, 1, 1))["d_loss"]
        self.d_adam.zero_grad()
        d_loss.backward()
        self.d_adam.step()
        with freeze_weights(self.D), torch.autocast("cpu", torch.bfloat16, enabled=not options.fp32):
            x_fake = self.G(torch.randn(batch, self.G.latent_size), resolution=side, alpha=alpha)
            g_loss = loss.generator_loss(critic, x_fake, reals=x)["g_loss"]
            self.g_adam.zero_grad()
            g_loss.backward()
        self.g_adam.step()
        for half_life, average in self.averages.items():
            update_ema(average, self.G, 0.5 ** (batch / min(half_life, max(0.1 * self.images, 1.0))))
        self.steps, self.images = self.steps + 1, self.images + batch

    def loss(self) -> Loss:
        """Return this step's loss: every --penalty-every steps with penalties, as many times as strong."""
        options = self.options
        factor = options.penalty_every if self.steps % options.penalty_every == 0 else 0
        return Loss(
            ADVERSARIAL[options.loss],
            full_resolution=32,
            penalty=options.gp * factor,
            r1=options.r1 * factor,
            r2=options.r2 * factor,
            drift=options.drift,
        )


def train(options: argparse.Namespace, images: Tensor) -> tuple[dict[float, nn.Module], dict]:
    """Train for --seconds; return G's moving averages by half-life, and the options, images seen and speeds."""
    torch.manual_seed(options.seed)
    levels = {32: images}
    for side in (16, 8, 4):
        levels[side] = (downscale(levels[2 * side].float()) + 0.5).byte()
    networks = Networks(options)
    ends = [*np.cumsum([float(share) for share in options.shares.split(",")]).tolist(), 1.0]
    seen, seconds = dict.fromkeys(RESOLUTIONS, 0), dict.fromkeys(RESOLUTIONS, 0.0)
    start = now = time.process_time()
    while (done := (now - start) / options.seconds) < 1:
        stage = next(i for i, end in enumerate(ends) if done < end)
        side, alpha = RESOLUTIONS[stage], 1.0
        if stage and options.arch == "progressive":  # half of a stage fades in, but at most a tenth of the run
            began = ends[stage - 1]
            alpha = min((done - began) / min((ends[stage] - began) / 2, 0.1), 1.0)
        decay = max(done - 1 + options.decay, 0.0) / options.decay if options.decay else 0.0
        chosen = torch.randint(len(images), (options.batch_size,))
        networks.step(levels[side][chosen], alpha, options.lr * (1 + math.cos(math.pi * decay)) / 2)
        before, now = now, time.process_time()
        seen[side] += options.batch_size
        seconds[side] += now - before
    speeds = {side: round(seen[side] / max(seconds[side], 1e-9), 1) for side in RESOLUTIONS}
    return networks.averages, vars(options) | {"seen": seen, "images": networks.images, "images_per_second": speeds}


def prepare(batch: Tensor, alpha: float) -> Tensor:
    """Return uint8 images as D sees them: mirrored with probability 1/2, in [-1, 1], and faded."""
    x = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(3), batch)
    x = x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
    return torch.lerp(upscale(downscale(x)), x, alpha) if alpha < 1 else x


@torch.no_grad()
def score(options: argparse.Namespace, average: nn.Module, images: Tensor) -> dict[str, float]:
    """Return KID, MIND and FID of --num-images against --real-images real ones, with Inception in bf16.

    The real images' features are kept in the working directory. Also writes 64 generated images to NAME.png, replacing
    those of an earlier average, and counts the embedded dataset's modes if the path contains "synthetic".
    """
    torch.manual_seed(1)
    parts = [average(torch.randn(100, average.latent_size)) for _ in range(options.num_images // 100)]
    fakes = ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).byte()
    to_pil_image(make_grid(fakes[:64], nrow=16, padding=1)).save(f"{options.name or 'samples'}.png")
    inception = Inception(read_state_dict(options.inception_weights), precision="bf16")
    kept = Path(f"features-{options.real_images}-{hashlib.sha256(images[:100].numpy()).hexdigest()[:8]}.pt")
    if not kept.exists():
        torch.save(
            extract(inception, images[:: max(len(images) // options.real_images, 1)][: options.real_images]), kept
        )
    sides = []
    for found in (torch.load(kept), extract(inception, fakes)):
        features, statistics = Features(), FeatureStatistics()
        features.update(found)
        statistics.update(found)
        sides.append((features, statistics))
    (real, real_statistics), (fake, fake_statistics) = sides
    scores = KID().compare(real, fake) | MIND().compare(real, fake) | FID().compare(real_statistics, fake_statistics)
    if "synthetic" in options.data:
        shares = np.bincount(classify(fakes[:1000].numpy()), minlength=32) / 1000
        scores["modes"] = int((shares >= MIN_SHARE / 32).sum())
    return scores


def extract(inception: Inception, images: Tensor) -> Tensor:
    """Return Inception's features [N, 2048] of uint8 images [N, 3, 32, 32]."""
    return torch.cat([inception(part)[0] for part in images.split(50)])


if __name__ == "__main__":
    main()
