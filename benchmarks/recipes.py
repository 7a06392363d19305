"""Compare recipes at equal computing time: train one for some seconds of one core, then score its images.

    python benchmarks/recipes.py .assets/cifar10/train.npz --seconds 200 --r1 0.05 --r2 0.05 --penalty-every 8

Time is the process's own (CPU) time, so that other work on the machine does not matter. The loop is shorter than
train.py's: it has no checkpoints, and stages end after fractions of the time instead of numbers of images. Networks,
losses and metrics are the package's. Results are appended to --results as one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.metrics.features import Features, FeatureStatistics
from pggan.metrics.fid import FID
from pggan.metrics.inception import Inception
from pggan.metrics.kid import KID
from pggan.metrics.mind import MIND
from pggan.metrics.weights import read_state_dict
from pggan.networks import Discriminator, Generator
from pggan.networks.layers import downscale, upscale
from pggan.training.losses import ADVERSARIAL, Loss
from pggan.training.steps import freeze_weights, update_ema

RESOLUTIONS = (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=".npz of 32x32 RGB images, uint8 [N, 32, 32, 3] or [N, 3, 32, 32]")
    parser.add_argument("--name", default="", help="label in the results")
    parser.add_argument("--seconds", type=float, default=200, help="CPU time of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fmap-base", type=int, default=512)
    parser.add_argument("--fmap-max", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--loss", choices=tuple(ADVERSARIAL), default="relativistic")
    parser.add_argument("--r1", type=float, default=0.0, help="weight of half the squared gradient norm at real images")
    parser.add_argument("--r2", type=float, default=0.0, help="the same at generated images")
    parser.add_argument("--gp", type=float, default=0.0, help="weight of the gradient penalty")
    parser.add_argument("--drift", type=float, default=0.0)
    parser.add_argument("--penalty-every", type=int, default=1)
    parser.add_argument("--shares", default="0.02,0.06,0.15", help="fractions of the time of all stages but the last")
    parser.add_argument("--decay", type=float, default=0.3, help="fraction of the time in which the rate falls to 0")
    parser.add_argument("--half-life", type=float, default=4000, help="of the moving average, in images")
    parser.add_argument("--fp32", action="store_true", help="instead of bf16")
    parser.add_argument(
        "--num-images", type=int, default=1000, help="generated images to score, at least 1,000 for KID"
    )
    parser.add_argument("--inception-weights", type=Path, default=Path(".assets/inception/pool3.pt"))
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.data) as file:
        images = torch.from_numpy(file[file.files[0]])
    images = images if images.shape[1] == 3 else images.permute(0, 3, 1, 2).contiguous()
    average, line = train(options, images)
    line |= score(options, average, images)
    with options.results.open("a") as file:
        print(json.dumps(line, default=str), file=file)
    print(json.dumps(line, default=str))


def train(options: argparse.Namespace, images: Tensor) -> tuple[Generator, dict]:
    """Train for --seconds; return the generator's moving average, and the options, images seen and speeds."""
    torch.manual_seed(options.seed)
    levels = {32: images}
    for side in (16, 8, 4):
        levels[side] = (downscale(levels[2 * side].float()) + 0.5).byte()
    maps = {"fmap_base": options.fmap_base, "fmap_max": options.fmap_max}
    G, D = Generator(32, **maps), Discriminator(32, **maps)
    for network in (G, D):
        network.to(memory_format=torch.channels_last)
    average = copy.deepcopy(G).requires_grad_(False)
    g_adam, d_adam = (torch.optim.Adam(n.parameters(), options.lr, (0.0, 0.99), fused=True) for n in (G, D))
    shares = [float(share) for share in options.shares.split(",")]
    ends, batch, step = [*np.cumsum(shares).tolist(), 1.0], options.batch_size, 0
    seen, seconds = dict.fromkeys(RESOLUTIONS, 0), dict.fromkeys(RESOLUTIONS, 0.0)
    start = now = time.process_time()
    while (done := (now - start) / options.seconds) < 1:
        stage = next(i for i, end in enumerate(ends) if done < end)
        side, alpha = RESOLUTIONS[stage], 1.0
        if stage:  # half of a stage fades in, but at most a tenth of the run
            began = ends[stage - 1]
            alpha = min((done - began) / min((ends[stage] - began) / 2, 0.1), 1.0)
        decay = max(done - 1 + options.decay, 0.0) / options.decay if options.decay else 0.0
        for adam in (g_adam, d_adam):
            adam.param_groups[0]["lr"] = options.lr * (1 + math.cos(math.pi * decay)) / 2
        factor = options.penalty_every if step % options.penalty_every == 0 else 0
        loss = Loss(
            ADVERSARIAL[options.loss],
            full_resolution=32,
            penalty=options.gp * factor,
            r1=options.r1 * factor,
            r2=options.r2 * factor,
            drift=options.drift,
        )
        chosen = torch.randint(len(images), (batch,))
        x = prepare(levels[side][chosen], alpha)

        def critic(inputs: Tensor, batches: int = 1, side: int = side, alpha: float = alpha) -> tuple[Tensor, Tensor]:
            return D(inputs, resolution=side, alpha=alpha, batches=batches)

        with torch.autocast("cpu", torch.bfloat16, enabled=not options.fp32):
            with torch.no_grad():
                x_fake = G(torch.randn(batch, G.latent_size), resolution=side, alpha=alpha)
            d_loss = loss.discriminator_loss(critic, x, x_fake, torch.rand(batch, 1, 1, 1))["d_loss"]
        d_adam.zero_grad()
        d_loss.backward()
        d_adam.step()
        with freeze_weights(D), torch.autocast("cpu", torch.bfloat16, enabled=not options.fp32):
            x_fake = G(torch.randn(batch, G.latent_size), resolution=side, alpha=alpha)
            g_loss = loss.generator_loss(critic, x_fake, reals=x)["g_loss"]
            g_adam.zero_grad()
            g_loss.backward()
        g_adam.step()
        total = sum(seen.values())
        update_ema(average, G, 0.5 ** (batch / min(options.half_life, max(0.1 * total, 1.0))))
        before, now, step = now, time.process_time(), step + 1
        seen[side] += batch
        seconds[side] += now - before
    speeds = {side: round(seen[side] / seconds[side], 1) for side in RESOLUTIONS}
    return average, vars(options) | {"seen": seen, "images": sum(seen.values()), "images_per_second": speeds}


def prepare(batch: Tensor, alpha: float) -> Tensor:
    """Return uint8 images as D sees them: mirrored with probability 1/2, in [-1, 1], and faded."""
    x = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(3), batch)
    x = x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
    return torch.lerp(upscale(downscale(x)), x, alpha) if alpha < 1 else x


@torch.no_grad()
def score(options: argparse.Namespace, average: Generator, images: Tensor) -> dict[str, float]:
    """Return KID, MIND and FID of --num-images against 5,000 real images, with Inception in bf16."""
    torch.manual_seed(1)
    parts = [average(torch.randn(100, average.latent_size)) for _ in range(options.num_images // 100)]
    fakes = ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).byte()
    inception = Inception(read_state_dict(options.inception_weights), precision="bf16")
    sides = []
    for side in (images[:: max(len(images) // 5000, 1)][:5000], fakes):
        features, statistics = Features(), FeatureStatistics()
        for part in side.split(50):
            found, _ = inception(part)
            features.update(found)
            statistics.update(found)
        sides.append((features, statistics))
    (real, real_statistics), (fake, fake_statistics) = sides
    results = KID().compare(real, fake) | MIND().compare(real, fake) | FID().compare(real_statistics, fake_statistics)
    return results


if __name__ == "__main__":
    main()
