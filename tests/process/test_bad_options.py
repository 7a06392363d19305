"""Invalid option values: each is rejected with one sentence naming the option and exit code 2; nothing is written."""

import re
import sys

import pytest
from conftest import ROOT
from PIL import Image

import pggan.__main__
import pggan.checkpoints.__main__
import pggan.datasets.__main__
import pggan.metrics.__main__
import train

pytestmark = pytest.mark.faults
MAINS = {
    "train.py": train.main,
    "pggan": pggan.__main__.main,
    "metrics": pggan.metrics.__main__.main,
    "datasets": pggan.datasets.__main__.main,
    "checkpoints": pggan.checkpoints.__main__.main,
}
TRAIN = "train.py synthetic --resolution 8 --channels 3 --fmap-base 32 --fmap-max 8 --batch-size 4 --device cpu"
# A tiny run; the options of a case come later and override these.
LAST = f"{TRAIN} --precision fp32 --metrics none --track none --fade-kimg 0.1 --stabilize-kimg 0.1"
RUN = "RUN"  # stands for a finished run's directory
PICTURE = "RUN/samples/reals-0016.png"  # larger than the run's images; ICON: smaller
CASES = f"""
    {LAST} | --budget 8 | --budget
    {LAST} | --budget 5s | --budget
    {LAST} | --budget 1h --preset lsun | --preset
    {LAST} | --budget 1h --total-kimg 5 | --total-kimg
    {LAST} | --resolution 0 | --resolution
    {LAST} | --resolution -8 | --resolution
    {LAST} | --resolution 12 | --resolution
    {LAST} | --resolution 4096 | --resolution
    {LAST} | --resolution 1e999 | --resolution
    {LAST} | --resolution eight | --resolution
    {LAST} | --channels 0 | --channels
    {LAST} | --channels 5 | --channels
    {LAST} | --fit zoom | --fit
    {LAST} | --background blurple | --background
    {LAST} | --max-bad 101% | --max-bad
    {LAST} | --max-bad nan | --max-bad
    {LAST} | --augment more | --augment
    {LAST} | --augment ada | --holdout
    {LAST} | --augment ada --channels 4 | --channels
    {LAST} | --ada-target 2 | --ada-target
    {LAST} | --ada-kimg 0 | --ada-kimg
    {LAST} | --holdout 100% | --holdout
    {LAST} | --holdout -1% | --holdout
    {LAST} | --fmap-base 0 | --fmap-base
    {LAST} | --fmap-base 1.5 | --fmap-base
    {LAST} | --fmap-decay -1 | --fmap-decay
    {LAST} | --fmap-decay nan | --fmap-decay
    {LAST} | --fmap-max 10000000 | --fmap-max
    {LAST} | --latent-size 0 | --latent-size
    {LAST} | --mbstd-group 0 | --mbstd-group
    {LAST} | --arch vae | --arch
    {LAST} | --hidden 16,16 | --hidden
    {LAST} | --arch mlp --hidden 16,0 | --hidden
    {LAST} | --arch mlp --d-hidden many | --d-hidden
    {LAST} | --arch mlp --no-pixel-norm | --no-pixel-norm
    {LAST} | --arch dcgan --micro-batch 4 | --micro-batch
    {LAST} | --arch msg --augment diffaug | --augment
    {LAST} | --penalty r3 | --penalty
    {LAST} | --r-weight 0 | --r-weight
    {LAST} | --penalty-every 0 | --penalty-every
    {LAST} | --penalty-every 1.5 | --penalty-every
    {LAST} | --penalty none --penalty-every 4 | --penalty-every
    {LAST} | --clip 0 | --clip
    {LAST} | --penalty-pixels some | --penalty-pixels
    {LAST} | --label-smoothing 0.1 | --label-smoothing
    {LAST} | --n-critic 0 | --n-critic
    {LAST} | --d-lr 0 | --d-lr
    {LAST} | --optimizer lion | --optimizer
    {LAST} --device cpu | --cuda-graphs | --cuda-graphs
    {LAST} --device cpu --dry-run | --cuda-graphs | --cuda-graphs
    {LAST} | --adam-beta1 1 | --adam-beta1
    {LAST} | --adam-beta2 -1 | --adam-beta2
    {LAST} | --growth quick | --growth
    {LAST} | --growth adaptive | --growth adaptive
    {LAST} | --growth-metric kid | --growth-metric
    {LAST} | --growth-share 101% | --growth-share
    {LAST} | --growth-window 0 | --growth-window
    {LAST} | --min-stabilize-kimg -1 | --min-stabilize-kimg
    {LAST} | --mbstd-group 3 | --mbstd-group
    {LAST} | --fade-kimg -1 | --fade-kimg
    {LAST} | --fade-kimg inf | --fade-kimg
    {LAST} | --fade-kimg 4:1,8:-1 | --fade-kimg
    {LAST} | --fade-kimg 4:1,64:1 | --fade-kimg
    {LAST} | --stabilize-kimg 0 | --stabilize-kimg
    {LAST} | --stabilize-kimg 4:1,8:0 | --stabilize-kimg
    {LAST} | --stabilize-kimg 8:1 | --stabilize-kimg
    {LAST} | --total-kimg 0.1 | --total-kimg
    {LAST} | --total-kimg much | --total-kimg
    {LAST} | --batch-size 0 | --batch-size
    {LAST} | --batch-size 4:4,4:8 | --batch-size
    {LAST} | --batch-size 8:4 | --batch-size
    {LAST} | --batch-size 4:4,64:4 | --batch-size
    {LAST} | --batch-size 4.5 | --batch-size
    {LAST} | --lr 0 | --lr
    {LAST} | --lr -0.001 | --lr
    {LAST} | --lr fast | --lr
    {LAST} | --lr 4:inf | --lr
    {LAST} | --decay-kimg -1 | --decay-kimg
    {LAST} | --decay-kimg soon | --decay-kimg
    {LAST} | --repeats 0 | --repeats
    {LAST} | --repeats 1001 | --repeats
    {LAST} | --ema-decay 1.5 | --ema-decay
    {LAST} | --loss hope | --loss
    {LAST} | --gp-weight -10 | --gp-weight
    {LAST} | --gp-target 0 | --gp-target
    {LAST} | --drift nan | --drift
    {LAST} | --label-weight -1 | --label-weight
    {LAST} | --max-skipped 0 | --max-skipped
    {LAST} | --on-nan ignore | --on-nan
    {LAST} | --keep-last 0 | --keep-last
    {LAST} | --keep-last many | --keep-last
    {LAST} | --metrics luck | --metrics
    {LAST} | --metrics fid --metric-images 1 | --metric-images
    {LAST} | --metric-images 1e9 | --metric-images
    {LAST} | --metric-every-kimg 0 | --metric-every-kimg
    {LAST} | --metrics fid --inception-weights nowhere.pth | nowhere.pth
    {LAST} | --seed -1 | --seed
    {LAST} | --seed 99999999999 | --seed
    {LAST} | --seed 1.5 | --seed
    {LAST} | --tick-kimg 0 | --tick-kimg
    {LAST} | --device abacus | --device
    {LAST} | --device cuda:99 | --device
    {LAST} | --device cpu,cpu | --device
    {LAST} | --precision int1 | --precision
    {LAST} | --track everywhere | --track
    {LAST} | --preset mine | --preset
    {LAST} | --resume nowhere.pt | nowhere.pt
    {LAST} | --resume= | --resume: the value is empty
    {LAST} | --out= | --out: the value is empty
    {LAST} | --config nowhere.json | --config
    {LAST} | --allow-upscale=1 | --allow-upscale
    {LAST} | --mirror=both | --mirror
    {LAST} | --ada-target x | --ada-target
    {LAST} | --ada-kimg 1e13 | --ada-kimg
    {LAST} | --holdout some | --holdout
    {LAST} | --augment diffaug --holdout 101% | --holdout
    {LAST} | --growing=no | --growing
    {LAST} | --latent-size 1000000000 | --latent-size
    {LAST} | --latent-size 1e30 | --latent-size
    {LAST} | --first-layer second | --first-layer
    {LAST} | --arch hybrid --hidden 0 | --hidden
    {LAST} | --d-hidden 16 | --d-hidden
    {LAST} | --arch mlp --hidden 70000 | --hidden
    {LAST} | --mbstd-group many | --mbstd-group
    {LAST} | --minibatch-stddev=2 | --minibatch-stddev
    {LAST} | --arch dcgan --no-minibatch-stddev | --no-minibatch-stddev
    {LAST} | --equalized-lr=2 | --equalized-lr
    {LAST} | --arch hybrid --no-equalized-lr | --no-equalized-lr
    {LAST} | --pixel-norm=2 | --pixel-norm
    {LAST} | --fused-scale=2 | --fused-scale
    {LAST} | --fade-kimg 1e306 | --fade-kimg
    {LAST} | --stabilize-kimg 1e306 | --stabilize-kimg
    {LAST} | --total-kimg 1e306 | --total-kimg
    {LAST} | --total-kimg -1 | --total-kimg
    {LAST} | --growth adaptive --arch mlp | --growth adaptive
    {LAST} | --growth adaptive --metrics swd --growth-metric fid | --growth adaptive
    {LAST} | --growth adaptive --metrics swd --metric-every-kimg 1 --min-stabilize-kimg 9 | --min-stabilize-kimg
    {LAST} | --growth-share -5% | --growth-share
    {LAST} | --growth-window 1e13 | --growth-window
    {LAST} | --min-stabilize-kimg nan | --min-stabilize-kimg
    {LAST} | --batch-size 1e13 | --batch-size
    {LAST} | --micro-batch 0 | --micro-batch
    {LAST} | --micro-batch 2.5 | --micro-batch
    {LAST} | --micro-batch 8:4 | --micro-batch
    {LAST} | --micro-batch 4:4,4:8 | --micro-batch
    {LAST} | --lr 1e300 | --lr
    {LAST} | --d-lr -1 | --d-lr
    {LAST} | --d-lr 8:0.1 | --d-lr
    {LAST} | --n-critic 1001 | --n-critic
    {LAST} | --n-critic 2.5 | --n-critic
    {LAST} | --adam-beta1 nan | --adam-beta1
    {LAST} | --adam-beta2 1 | --adam-beta2
    {LAST} | --penalty 10 | --penalty
    {LAST} | --gp-target 1e300 | --gp-target
    {LAST} | --r-weight -1 | --r-weight
    {LAST} | --r-weight nan | --r-weight
    {LAST} | --loss wgan --clip 1e300 | --clip
    {LAST} | --clip -0.01 | --clip
    {LAST} | --drift -1 | --drift
    {LAST} | --loss minimax --label-smoothing 0.6 | --label-smoothing
    {LAST} | --loss minimax --label-smoothing -0.1 | --label-smoothing
    {LAST} | --loss hinge --label-smoothing 0.1 | --label-smoothing
    {LAST} | --label-weight inf | --label-weight
    {LAST} | --max-skipped some | --max-skipped
    {LAST} | --keep-last 10001 | --keep-last
    {LAST} | --keep-last 1.5 | --keep-last
    {LAST} | --metric-every-kimg never | --metric-every-kimg
    {LAST} | --tick-kimg 1e306 | --tick-kimg
    {LAST} | --tick-kimg 8:1 | --tick-kimg
    {LAST} | --device cpu:99 | --device
    {LAST} | --deterministic=1 | --deterministic
    {LAST} | --dry-run=1 | --dry-run
    {LAST} | --out /proc/none/run | /proc/none/run
    {LAST} | --labels=yes | --labels
    {LAST} | --unknown 1 | --unknown
    train.py nowhere | | nowhere
    train.py | | DATA
    pggan sample RUN | --seeds 5-1 | --seeds
    pggan sample RUN | --seeds 0-99999999999 | --seeds
    pggan sample RUN | --seeds x | --seeds
    pggan sample RUN | --count 0 | --count
    pggan sample RUN | --count -1 | --count
    pggan sample RUN | --count 3 --seeds 0-2 | --seeds
    pggan sample RUN | --labels cat | labels
    pggan sample RUN | --truncation 2 | --truncation
    pggan sample RUN | --resolution 1024 | --resolution
    pggan sample RUN | --resolution 5 | --resolution
    pggan sample RUN | --alpha -1 | --alpha
    pggan sample RUN | --device tpu | --device
    pggan sample RUN | --out picture.txt | --out
    pggan sample nowhere | | nowhere
    pggan interpolate RUN | --seeds 1,1 | --seeds
    pggan interpolate RUN | --fps 0 | --fps
    pggan interpolate RUN | --out film.exe | --out
    pggan fade RUN | --resolution 3 | --resolution
    pggan grow nowhere | | nowhere
    pggan grow RUN | --fps 0 | --fps
    pggan evaluate RUN | --num-images 0 | --num-images
    pggan evaluate RUN | --metrics none-such | --metrics
    pggan evaluate RUN | --data nowhere | nowhere
    pggan compare RUN RUN | --seeds -1 | --seeds
    pggan nearest RUN | --count 0 | --count
    pggan project RUN nowhere.png | | nowhere.png
    pggan upscale RUN nowhere.png | | nowhere.png
    pggan info nowhere | | nowhere
    pggan report nowhere | | nowhere
    pggan explore RUN | --port 99999999 | --port
    pggan sample RUN | --count 99999999999 | --count
    pggan sample RUN | --truncation nan | --truncation
    pggan sample RUN | --alpha nan | --alpha
    pggan sample RUN | --out RUN/config.json | --out
    pggan sample RUN | --force=yes | --force
    pggan interpolate RUN | --frames 0 | --frames
    pggan interpolate RUN | --frames 99999999 | --frames
    pggan interpolate RUN | --fps nan | --fps
    pggan interpolate RUN | --label 0 | label
    pggan interpolate RUN | --truncation 1.1 | --truncation
    pggan interpolate RUN | --resolution 2 | --resolution
    pggan interpolate RUN | --alpha x | --alpha
    pggan interpolate RUN | --device abacus | --device
    pggan grow RUN | --out a.png | --out
    pggan fade RUN | --seeds x | --seeds
    pggan fade RUN | --frames 1 | --frames
    pggan fade RUN | --fps 1e9 | --fps
    pggan fade RUN | --out a.zip | --out
    pggan fade RUN | --device abacus | --device
    pggan evaluate RUN | --num-images 1e4 | --num-images
    pggan evaluate RUN | --resize bigger | --resize
    pggan evaluate RUN | --precision int1 | --precision
    pggan evaluate RUN | --metrics fid --inception-weights nowhere.pth | nowhere.pth
    pggan evaluate RUN | --seed 1.5 | --seed
    pggan evaluate RUN | --device abacus | --device
    pggan compare RUN | | two
    pggan compare RUN RUN | --seed -1 | --seed
    pggan compare RUN RUN | --metrics luck | --metrics
    pggan compare RUN RUN | --num-images 0 | --num-images
    pggan compare RUN RUN | --data nowhere | nowhere
    pggan compare RUN RUN | --resize big | --resize
    pggan compare RUN RUN | --precision fp8 | --precision
    pggan compare RUN RUN | --metrics fid --inception-weights nowhere.pth | nowhere.pth
    pggan compare RUN RUN | --device abacus | --device
    pggan compare RUN RUN | --metrics none --out a.txt | --out
    pggan nearest RUN | --seeds 5-1 | --seeds
    pggan nearest RUN | --neighbors 21 | --neighbors
    pggan nearest RUN | --num-reals 1 | --num-reals
    pggan nearest RUN | --data nowhere | nowhere
    pggan nearest RUN | --inception-weights nowhere.pth | nowhere.pth
    pggan nearest RUN | --resolution 7 | --resolution
    pggan nearest RUN | --out a.gif | --out
    pggan nearest RUN | --device abacus | --device
    pggan project RUN PICTURE | --searches 0 | --searches
    pggan project RUN PICTURE | --steps 10000000 | --steps
    pggan project RUN PICTURE | --seed 99999999999 | --seed
    pggan project RUN PICTURE --fit | --label cat | label
    pggan project RUN PICTURE | --resolution 7 | --resolution
    pggan project RUN PICTURE | --out RUN/config.json | --out
    pggan project RUN PICTURE | --device abacus | --device
    pggan project RUN PICTURE | | --fit
    pggan upscale RUN PICTURE | --tolerance 0 | --tolerance
    pggan upscale RUN PICTURE | --tolerance nan | --tolerance
    pggan upscale RUN PICTURE | --searches -1 | --searches
    pggan upscale RUN PICTURE | --steps many | --steps
    pggan upscale RUN PICTURE | --seed x | --seed
    pggan upscale RUN PICTURE | --resolution 4 | --resolution
    pggan upscale RUN ICON | --label 3 | label
    pggan upscale RUN PICTURE | --out RUN/config.json | --out
    pggan upscale RUN PICTURE | --device abacus | --device
    pggan upscale RUN PICTURE | | 4 or 8 pixels wide
    pggan report RUN | --out RUN/config.json | --out
    pggan explore RUN | --port 0 | --port
    pggan explore RUN | --device abacus | --device
    pggan import nowhere | --out a.pt | nowhere
    pggan import RUN | --out a.txt | --out
    pggan import RUN | | --out
    pggan import RUN | --out RUN/config.json | --out
    pggan import RUN/config.json | --out a.pt | config.json
    pggan import nowhere | --out a.pt --resolution 3 | --resolution
    pggan import nowhere | --out a.pt --resolution 99999 | --resolution
    pggan export RUN | --out a | --format
    pggan export RUN | --format jpeg --out a | --format
    pggan export RUN | --format onnx | --out
    pggan export RUN | --format onnx --out a.pt | --out
    pggan export RUN | --format hub --out RUN/samples | --out
    pggan export RUN | --format hub --out a --license a:b | --license
    pggan export RUN | --format onnx --out a.onnx --license mit | --license
    pggan export nowhere | --format hub --out a | nowhere
    pggan profile synthetic --resolution 8 --channels 3 | --at 0 | --at
    pggan profile synthetic --resolution 8 --channels 3 | --at 16 | --at
    pggan profile synthetic --resolution 8 --channels 3 | --steps 0 | --steps
    pggan profile synthetic --resolution 8 --channels 3 | --steps 1e3 | --steps
    pggan profile synthetic --resolution 8 --channels 3 | --steps 99999999999 | --steps
    pggan profile synthetic --resolution 8 --channels 3 | --batch-size -4 | --batch-size
    pggan profile | | DATA
    pggan fly RUN | | fly
    metrics nowhere here | | nowhere
    metrics RUN/samples RUN/samples | --metrics luck | --metrics
    metrics RUN/samples RUN/samples | --num-images 1 | --num-images
    metrics RUN/samples RUN/samples | --num-images x | --num-images
    metrics RUN/samples RUN/samples | --resize bigger | --resize
    metrics RUN/samples RUN/samples | --precision int1 | --precision
    metrics RUN/samples RUN/samples | --kid-subset-size 0 | --kid-subset-size
    metrics RUN/samples RUN/samples | --device abacus | --device
    metrics RUN/samples RUN/samples | --inception-weights nowhere.pth | nowhere.pth
    metrics RUN/samples RUN/samples | --num-images 99999999999999999999 | --num-images
    metrics RUN/samples RUN/samples | --cache here --no-cache | --cache
    metrics RUN/samples | | GENERATED
    metrics stats RUN/samples --out x.txt | | --out
    metrics stats RUN/samples --out x.npz | --num-images 1 | --num-images
    metrics stats RUN/samples --out x.npz | --resize none | --resize
    metrics stats RUN/samples --out x.npz | --precision int1 | --precision
    metrics stats RUN/samples --out x.npz | --device abacus | --device
    metrics stats RUN/samples --out x.npz | --inception-weights nowhere.pth | nowhere.pth
    metrics stats nowhere --out x.npz | | nowhere
    datasets build nowhere | | nowhere
    datasets build RUN/samples | --resolution 7 | --resolution
    datasets build RUN/samples | --channels 9 | --channels
    datasets build RUN/samples | --fit zoom | --fit
    datasets build RUN/samples | --background blurple | --background
    datasets build RUN/samples | --max-bad 2 | --max-bad
    datasets build RUN/samples | --workers -3 | --workers
    datasets build RUN/samples | --workers 0 | --workers
    datasets build RUN/samples | --workers 1000000 | --workers
    datasets plan RUN/samples | --workers none | --workers
    datasets grid RUN/samples | --count 0 | --count
    datasets grid RUN/samples | --out nowhere/grid.png | --out
    datasets verify RUN/samples | --decode -1 | --decode
    datasets build RUN/samples | --resolution 0 | --resolution
    datasets build RUN/samples | --resolution 1024 | --allow-upscale
    datasets build RUN/samples | --max-bad -1% | --max-bad
    datasets grid RUN/samples | --count 1025 | --count
    datasets grid RUN/samples | --count some | --count
    datasets grid RUN/samples | --out grid.txt | --out
    datasets verify RUN/samples | --decode 1.5 | --decode
    datasets verify RUN/samples | --decode 99999999999999999 | --decode
    datasets plan RUN/samples | --background blurple | --background
    datasets grid RUN/samples | --background blurple | --background
    datasets verify RUN/samples | --background blurple | --background
    datasets plan RUN/samples | --resolution 0 | --resolution
    datasets plan RUN/samples | --channels 9 | --channels
    datasets plan RUN/samples | --fit zoom | --fit
    datasets plan RUN/samples | --max-bad -1% | --max-bad
    datasets plan RUN/samples | --workers 0 | --workers
    datasets inspect RUN/samples | --fit zoom | --fit
    datasets inspect RUN/samples | --workers 0 | --workers
    datasets grid RUN/samples | --resolution 0 | --resolution
    datasets grid RUN/samples | --channels 9 | --channels
    datasets grid RUN/samples | --fit zoom | --fit
    datasets verify RUN/samples | --resolution 0 | --resolution
    datasets verify RUN/samples | --channels 9 | --channels
    datasets verify RUN/samples | --fit zoom | --fit
    {LAST} | --workers 0 | --workers
    {LAST} | --workers two | --workers
    {LAST} | --burn-in-kimg -1 | --burn-in-kimg
    {LAST} | --scale-consistency 1 | --scale-consistency
    {LAST} | --arch msg --scale-consistency nan | --scale-consistency
    pggan evaluate RUN | --checkpoints some | --checkpoints
    pggan evaluate RUN | --num-reals 1 | --num-reals
    pggan evaluate RUN | --num-reals most | --num-reals
    pggan evaluate RUN | --features nowhere.pth | nowhere.pth
    pggan evaluate RUN | --num-seeds 0 | --num-seeds
    pggan evaluate RUN | --ema 0.9 | --ema
    pggan evaluate RUN | --ema 0.1 | --power-ema
    pggan evaluate RUN/checkpoints/latest.pt | --ema 0.1 | not a run directory
    pggan ema RUN | --std 0 | --std
    pggan ema RUN | --std short | --std
    pggan ema RUN | --std 0.1 | --power-ema
    pggan ema RUN --std 0.1 | --images 0 | --images
    pggan ema nowhere | --std 0.1 | nowhere is not a run directory
    pggan compare RUN RUN | --num-reals 1 | --num-reals
    pggan compare RUN RUN | --features nowhere.pth | nowhere.pth
    pggan nearest RUN | --rows 0 | --rows
    pggan perceptual RUN | --num-images 1 | --num-images
    pggan perceptual RUN | --data nowhere --lpips-weights nowhere.ckpt | nowhere
    pggan perceptual RUN | --seed x | --seed
    pggan perceptual RUN | --lpips-weights nowhere.ckpt | nowhere.ckpt
    pggan perceptual RUN | --resolution 7 | --resolution
    pggan perceptual RUN | --device abacus | --device
    pggan project RUN PICTURE | --loss smell | --loss
    pggan project RUN PICTURE --fit | --loss lpips --lpips-weights nowhere.ckpt | nowhere.ckpt
    metrics RUN/samples RUN/samples | --resolution 0 | --resolution
    metrics RUN/samples RUN/samples | --fit zoom | --fit
    metrics RUN/samples RUN/samples | --background blurple | --background
    metrics RUN/samples RUN/samples | --features nowhere.pth | nowhere.pth
    metrics stats RUN/samples --out x.npz | --resolution 0 | --resolution
    metrics stats RUN/samples --out x.npz | --fit zoom | --fit
    metrics stats RUN/samples --out x.npz | --background blurple | --background
    metrics stats RUN/samples --out x.npz | --features nowhere.pth | nowhere.pth
    datasets export RUN/samples --resolution 8 | --out nowhere/x.zip | --out
    datasets export RUN/samples --out x.zip | --resolution 0 | --resolution
    datasets export RUN/samples --out x.zip --resolution 8 | --channels 9 | --channels
    datasets export RUN/samples --out x.zip --resolution 8 | --fit zoom | --fit
    datasets export RUN/samples --out x.zip --resolution 8 | --background blurple | --background
    datasets export RUN/samples --out x.zip --resolution 8 | --max-bad 2 | --max-bad
    datasets export RUN/samples --out x.zip --resolution 8 | --workers 0 | --workers
    datasets clean nokey | | nokey
    checkpoints nowhere | | nowhere
    checkpoints RUN/config.json | | config.json
    checkpoints RUN/samples | | samples
    checkpoints RUN | --json | --json
    checkpoints | | FILE
""".strip().splitlines()


@pytest.fixture(scope="module")
def icon(tmp_path_factory):
    path = tmp_path_factory.mktemp("icon") / "8x8.png"
    Image.new("RGB", (8, 8)).save(path)
    return str(path)


def read_modification_times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.mark.parametrize("case", [case.strip() for case in CASES])
def test_invalid_option_value_is_rejected(case, finished_run, icon, cache, tmp_path, monkeypatch, capsys, count_fault):
    command, options, expected = (part.strip() for part in case.split("|"))
    for word, path in {"PICTURE": PICTURE, "ICON": icon, RUN: str(finished_run)}.items():
        command, options = command.replace(word, path), options.replace(word, path)
    program, *arguments = command.split()
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(cache / "torch"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program, *arguments, *options.split()])
    before = read_modification_times(finished_run)
    with pytest.raises(SystemExit) as system_exit:
        MAINS[program]()
    output = capsys.readouterr().err
    assert system_exit.value.code == 2, output
    message = output.split("\nusage: ")[0] if not output.startswith("usage: ") else output.strip().splitlines()[-1]
    assert expected in message and "Traceback" not in output
    assert list(tmp_path.iterdir()) == [] and read_modification_times(finished_run) == before
    count_fault("bad options")


def test_every_option_that_takes_a_value_has_a_case():
    page = (ROOT / "docs" / "commands.md").read_text()
    sections = re.findall(r"^##+ (?:python -m )?(.+?)\n(.+?)(?=^##|\Z)", page, re.M | re.S)
    options = {command: set(re.findall(r"^  (--[\w-]+) \S", text, re.M)) for command, text in sections}
    options["pggan profile"] -= options["train.py"]
    for command, names in options.items():
        tested = {
            word for case in CASES if case.split()[: len(command.split())] == command.split() for word in case.split()
        }
        assert names <= tested, (command, names - tested)
