"""Values that no option can have: one sentence that names the option, exit code 2, nothing written."""

import sys

import pytest

import checkpoints.__main__
import datasets.__main__
import metrics.__main__
import pggan.__main__
import train

pytestmark = pytest.mark.faults
MAINS = {
    "train.py": train.main,
    "pggan": pggan.__main__.main,
    "metrics": metrics.__main__.main,
    "datasets": datasets.__main__.main,
    "checkpoints": checkpoints.__main__.main,
}
TRAIN = "train.py synthetic --resolution 8 --channels 3 --fmap-base 32 --fmap-max 8 --batch-size 4 --device cpu"
LAST = f"{TRAIN} --metrics none --track none --fade-kimg 0.1 --stabilize-kimg 0.1"
RUN = "RUN"  # stands for a finished run's directory
CASES = f"""
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
    {LAST} | --clip 0 | --clip
    {LAST} | --penalty-pixels some | --penalty-pixels
    {LAST} | --label-smoothing 0.1 | --label-smoothing
    {LAST} | --n-critic 0 | --n-critic
    {LAST} | --d-lr 0 | --d-lr
    {LAST} | --optimizer lion | --optimizer
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
    {LAST} | --stabilize-kimg 0 | --stabilize-kimg
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
    {LAST} | --rollback-lr 0 | --rollback-lr
    {LAST} | --rollback-lr 2 | --rollback-lr
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
    {LAST} | --config nowhere.json | --config
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
    metrics stats RUN/samples --out x.txt | | --out
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
    datasets clean nokey | | nokey
    checkpoints nowhere | | nowhere
""".strip().splitlines()


def files(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.mark.parametrize("case", [case.strip() for case in CASES])
def test_what_no_option_can_be_is_refused(case, finished_run, cache, tmp_path, monkeypatch, capsys, count_fault):
    command, options, named = (part.strip() for part in case.split("|"))
    program, *arguments = command.replace(RUN, str(finished_run)).split()
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(cache / "torch"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program, *arguments, *options.split()])
    before = files(finished_run)
    with pytest.raises(SystemExit) as end:
        MAINS[program]()
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    sentence = said.split("\nusage: ")[0] if not said.startswith("usage: ") else said.strip().splitlines()[-1]
    assert named in sentence and "Traceback" not in said
    assert list(tmp_path.iterdir()) == [] and files(finished_run) == before
    count_fault("bad options")
