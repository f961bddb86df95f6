"""What a killed job had made is there for the next; what networks saw they do not see again.

Processes kill themselves (SIGKILL) at a moment that the test chooses; then the job runs once more,
has only the rest to do, and ends with the bytes of a run that nothing disturbed.
"""

import errno
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, make_folder
from PIL import Image
from test_faults import DATA, files, finish, launched, made, reco, snakemake
from test_probe import CONFIG, learned  # noqa: F401 a fixture

from reco import models
from reco.config import Train, check_config
from reco.data.folder import write_labels
from reco.data.tables import read_table
from reco.experiment import Experiment
from reco.method.train import make_optimiser
from reco.photos.folder import Photo, link_results, prepare_work
from reco.progress import LOG
from reco.work import is_whole, link, publish, working_folder
from reco.workflow.catalog import catalog_split
from reco.workflow.checkpoint import read_checkpoint_into, write_checkpoint
from reco.workflow.deeplab import build
from reco.workflow.probe import train_probe
from reco.workflow.segment import segment_split
from reco.workflow.text import embed_concepts
from reco.workflow.views import embed_split, see

# What a process does here before it kills itself: argv is what, moment (0 = never), arguments.
KILLS = """
import os
import signal
import sys
from pathlib import Path

from colours import Colours
from test_resume import deeplab, segment_val, train

from reco import models
from reco.workflow import masks
from reco.workflow import train as training
from reco.progress import open_log

left = int(sys.argv[2])

def count_down(function):
    def counting(*arguments, **options):
        global left
        function(*arguments, **options)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return counting

if __name__ == "__main__":
    open_log(Path(sys.argv[3]))
    if sys.argv[1] == "segment":
        colours = Colours()
        models.load = lambda spec, **options: colours
        masks.write_labels = count_down(masks.write_labels)
        segment_val(Path(sys.argv[4]))
    else:
        training.CHECKPOINT = 0  # after every step
        training.write_checkpoint = count_down(training.write_checkpoint)
        train(deeplab(), Path(sys.argv[4]))
"""


def act(what: str, moment: int, out: str, log: str = "log.txt") -> str:
    """Run KILLS in the current folder; what it logged."""
    Path("kills.py").write_text(KILLS)
    command = [sys.executable, "kills.py", what, str(moment), log, out]
    places = [*sys.path, str(Path(__file__).parent)]
    environment = {"PYTHONPATH": ":".join(filter(None, places)), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if moment else 0), done.stderr
    return Path(log).read_text()


def numbers(said: str, what: str) -> tuple[int, int]:
    """How many of how many images a stage says that it has to do."""
    todo, total = re.search(rf"{what}: (\d+) of (\d+) images to", said).groups()
    return int(todo), int(total)


@pytest.fixture(autouse=True)
def _heard(caplog, monkeypatch):
    """caplog has what stages say, whatever other tests did to the log."""
    monkeypatch.setattr(LOG, "propagate", True)
    caplog.set_level(logging.INFO, LOG.name)


# ---- working folders --------------------------------------------------------------------------


def test_a_working_folder_is_that_of_its_state(tmp_path):
    output = tmp_path / "masks/val"
    work = working_folder(output, ["a", 1])
    (work / "m").mkdir()
    (work / "m/0.png").write_bytes(b"0")
    other = tmp_path / "masks/.train.0123"
    other.mkdir()
    assert working_folder(output, ["a", 1]) == work and is_whole([work / "m/0.png"])
    new = working_folder(output, ["a", 2])
    assert new != work and not work.exists() and list(new.iterdir()) == [] and other.exists()


def test_it_takes_the_place_of_its_output_and_leaves_no_temporary_files(tmp_path):
    output = tmp_path / "val"
    output.mkdir()
    (output / "old.png").write_bytes(b"old")
    work = working_folder(output, 1)
    (work / "new.png").write_bytes(b"new")
    (work / ".new.k3x9.png").write_bytes(b"ne")
    publish(work, output)
    assert files(output) == {"new.png": b"new"} and not work.exists()
    (output / "new.png").write_bytes(b"")
    assert not is_whole([output / "new.png"]) and not is_whole([output / "none.png"])


def test_results_have_a_second_name_or_a_copy(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    link(tmp_path / "a", tmp_path / "deep/b")
    link(tmp_path / "a", tmp_path / "deep/b")
    assert (tmp_path / "deep/b").stat().st_ino == (tmp_path / "a").stat().st_ino

    def refuse(*_):
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr("os.link", refuse)
    link(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"a"


def test_photographs_results_are_linked_and_those_of_others_are_not(tmp_path):
    work, out, given = tmp_path / "work", tmp_path / "out", [tmp_path / "holiday"]
    prepare_work(work, given)
    photos = [Photo(tmp_path / f"{name}.jpg", f"{name}.jpg", name) for name in "abc"]
    for name in "abd":  # b cannot be read any more, c has no results, d is gone
        for place in (f"masks/{name}.png", f"overlays/{name}.jpg", f"coco/{name}.json"):
            (work / place).parent.mkdir(exist_ok=True)
            (work / place).write_text(name)
    (work / "summary.csv").write_text("s")
    link_results(photos, [("b.jpg", "broken")], work, out)
    assert list(files(out)) == ["coco/a.json", "masks/a.png", "overlays/a.jpg", "summary.csv"]
    prepare_work(work, given)
    assert (work / "masks/a.png").exists()
    prepare_work(work, [tmp_path / "other"])  # a folder of the same name somewhere else
    assert list(files(work)) == ["reco.json"]


# ---- features of a benchmark ------------------------------------------------------------------


def add_shapes() -> None:
    """Pictures of other aspects, and a copy, beside those of `make_folder`."""
    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            folder = Path("mine/bench", kind, split)
            for name, size in (("wide", (150, 96)), ("tall", (96, 131)), ("wide2", (150, 96))):
                image = Image.new(mode, size, (40, 120, 40) if mode == "RGB" else 2)
                image.save(folder / f"{name}.{'jpg' if mode == 'RGB' else 'png'}")


def list_splits(experiment: Experiment) -> None:
    for split in ("train", "val"):
        table = Path(experiment.data, f"images/{split}.csv")
        catalog_split(experiment.split(split), table, need_masks=split == "val")


@pytest.fixture
def shaped(learned):  # noqa: F811 the fixture
    add_shapes()
    list_splits(learned)
    return learned


def embed_val(experiment: Experiment) -> Path:
    table = Path(experiment.split_features("val"))
    images = Path(experiment.data, "images/val.csv")
    embed_split(experiment, "val", images, table, models.keeping_loader())
    return table


def test_features_are_computed_once_whatever_the_concepts(shaped, caplog):
    colours = models.load("")
    before = colours.images
    table = embed_val(shaped)
    assert numbers(caplog.text, "features of val") == (6, 6)  # 7 images, of which two are equal
    assert colours.images == before + 6 * 2  # at two sizes
    first = table.read_bytes()
    caplog.clear()
    more = Experiment(check_config({**CONFIG, "concepts": ["orange", "lemon"]}))
    assert embed_val(more) == table and table.read_bytes() == first
    assert numbers(caplog.text, "features of val") == (0, 6)
    assert colours.images == before + 6 * 2
    shard = Path(read_table(table)[0]["dense_96_shard"])
    shard.unlink()
    shard.with_suffix(".keys").unlink()
    caplog.clear()
    embed_val(shaped)
    assert 0 < numbers(caplog.text, "features of val")[0] < 6
    assert table.read_bytes() == first and shard.exists()


def test_what_is_kept_is_what_the_networks_say(shaped):
    rows = read_table(Path(shaped.data, "images/val.csv"))
    sides = shaped.sides("val")
    assert sides == [96, 128]
    kept = list(see(shaped, "val", rows, sides, embed_val(shaped)))
    now = list(see(shaped, "val", rows, sides, None, load=models.keeping_loader()))
    shapes = set()
    for (name, picture, views), (other, same, found) in zip(kept, now, strict=True):
        assert name == other and (picture == same).all() and list(views) == list(found)
        for side in views:
            for a, b in zip(views[side], found[side], strict=True):
                np.testing.assert_array_equal(a, b)
                np.testing.assert_array_equal(a, a.astype(np.float16))
                shapes.add(tuple(a.shape))
    assert len(shapes) == 6  # three aspects at two sizes


def test_sides_follow_what_the_methods_look_at():
    def sides(role, **values):
        return Experiment(check_config({**CONFIG, **values})).sides(role)

    whole = {**CONFIG["sizes"], "benchmark": None}
    assert sides("val") == [96, 128] and sides("val", sizes=whole) == [96, 128, None]
    assert sides("train", sizes=whole) == [96, 128]
    assert sides("train", recipe="paper", sizes=whole) == [None]


def test_large_pictures_are_not_kept_unless_asked_for():
    def keeps(size, **values):
        sizes = {**CONFIG["sizes"], "benchmark": size}
        return Experiment(check_config({**CONFIG, "sizes": sizes, **values})).keeps_features

    assert keeps(512) and not keeps(513) and not keeps(None)
    assert keeps(None, keep_features=True) and not keeps(96, keep_features=False)
    assert not keeps(96, benchmark=None)


def test_a_probe_learns_the_same_from_kept_features(shaped):
    images, table = Path(shaped.data, "images/train.csv"), Path(shaped.split_features("train"))
    embed_split(shaped, "train", images, table, models.keeping_loader())
    colours = models.load("")
    train_probe(shaped, images, table, models.keeping_loader())
    seen = colours.images
    one, _, _ = train_probe(shaped, images, table, models.keeping_loader())
    assert colours.images == seen
    other, _, _ = train_probe(shaped, images, None, models.keeping_loader())
    assert colours.images == seen + 9 * 2
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_array_equal(one.bias, other.bias)


# ---- masks of a split -------------------------------------------------------------------------


def segment_val(masks: Path, part: str | None = None, *, kept: bool = True, **values) -> None:
    """Segment val of the experiment in the current folder."""
    plan = Experiment(check_config({**CONFIG, **values}))
    features = Path(plan.split_features("val")) if kept else None
    images = Path(plan.data, "images/val.csv")
    segment_split(plan, "val", images, plan.methods("val"), masks, 1, features=features, part=part)


@pytest.fixture
def seen(shaped):
    """All that masks of val are made from."""
    from reco.workflow.cosegment import cosegment_archive
    from reco.workflow.embed import embed_archives

    loader = models.keeping_loader()
    embed_concepts(shaped, loader)
    embed_archives(shaped, loader)
    for slug in shaped.sources:
        cosegment_archive(
            Path(shaped.features(slug)),
            Path(shaped.text(slug)),
            [],
            [variant.reference_name for variant in shaped.reference_variants],
            Path(shaped.reference(slug)),
            temperature=10.0,
            merge="mean",
            variant="paper",
        )
    embed_val(shaped)
    return shaped


def test_a_killed_segmentation_goes_on_to_the_same_masks(seen):
    said = act("segment", 0, "calm")
    assert numbers(said, "segment val") == (7, 7)
    calm = files(Path("calm"))
    assert len(calm) == 7 * len(seen.methods("val"))

    act("segment", 40, "masks")  # it would wait for processes that outlive the killed one
    (work,) = Path().glob(".masks.*")
    assert not Path("masks").exists()
    whole = {path: path.stat().st_mtime_ns for path in work.rglob("[!.]*.png")}
    assert 40 <= len(whole) < len(calm)
    said = act("segment", 0, "masks")
    todo, total = numbers(said, "segment val")
    assert 0 < todo < 7 == total
    assert files(Path("masks")) == calm and not list(Path().glob(".masks.*"))
    kept = sum(
        Path("masks", path.relative_to(work)).stat().st_mtime_ns == then
        for path, then in whole.items()
    )
    assert kept >= (7 - todo) * len(seen.methods("val"))


def test_masks_of_other_settings_are_not_taken_over(seen, caplog):
    segment_val(Path("masks"), "1-of-2")
    assert numbers(caplog.text, "segment val") == (3, 3)
    caplog.clear()
    segment_val(Path("masks"), "1-of-2", crf={"iterations": 1})
    assert numbers(caplog.text, "segment val") == (3, 3)
    assert len(list(Path().glob(".masks.*"))) == 1


def test_parts_and_looking_again_make_the_same_masks(seen, caplog):
    segment_val(Path("one"))
    for number in (2, 1, 3):
        segment_val(Path("three"), f"{number}-of-3")
    assert not Path("three").exists()
    caplog.clear()
    segment_val(Path("three"))
    assert numbers(caplog.text, "segment val") == (0, 7)
    segment_val(Path("again"), kept=False)
    assert files(Path("one")) == files(Path("three")) == files(Path("again"))


# ---- training ---------------------------------------------------------------------------------

DEEPLAB = {
    "student": "deeplab",
    "encoder": "tu-tf_mobilenetv3_small_minimal_100",
    "size": 64,
    "batch": 2,
    "iterations": 7,
    "lr": 5e-3,
    "backbone_lr": 0.1,
    "validate_every": 3,
}


def deeplab() -> Experiment:
    return Experiment(check_config({**CONFIG, "train": DEEPLAB}))


def train(experiment: Experiment, out: Path) -> None:
    """Train on the pseudo-masks in the current folder."""
    from reco.workflow.train import train_plus

    torch.set_num_threads(1)
    names = ("model.safetensors", "model.json", "curve.csv")
    tables = [Path(experiment.data, f"images/{split}.csv") for split in ("train", "val")]
    train_plus(experiment, tables[0], Path("masks"), *(out / name for name in names), tables[1])


@pytest.fixture
def pseudo(monkeypatch, tmp_path):
    """An experiment with pseudo-masks, which are drawn."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "mine")
    experiment = deeplab()
    list_splits(experiment)
    rng = np.random.default_rng(0)
    for row in read_table(Path(experiment.data, "images/train.csv")):
        labels = np.kron(rng.integers(0, 3, (4, 4)), np.ones((24, 24), int))
        write_labels(Path("masks", experiment.best.slug, row["prediction"]), labels)
    return experiment


def test_a_killed_training_goes_on_to_the_same_bytes(pseudo):
    said = act("train", 0, "calm/plus")
    assert "goes on" not in said
    act("train", 4, "killed/plus")
    assert not list(Path("killed/plus").glob("*"))
    (checkpoint,) = Path("killed").glob(".plus.*/checkpoint.safetensors")
    assert checkpoint.stat().st_size
    said = act("train", 0, "killed/plus")
    assert "goes on after step 4" in said
    assert files(Path("killed")) == files(Path("calm"))
    assert len(read_table(Path("killed/plus/curve.csv"))) == 7

    act("train", 2, "other/plus")
    mask = next(Path("masks").rglob("*.png"))
    write_labels(mask, np.zeros((96, 96), int))
    said = act("train", 0, "other/plus")
    assert "goes on" not in said and not list(Path("other").glob(".plus.*"))


@pytest.mark.parametrize("backbone_lr", [0.0, 0.1])
def test_a_checkpoint_holds_all_that_training_needs(tmp_path, backbone_lr):
    settings = Train(**{**DEEPLAB, "backbone_lr": backbone_lr})
    file = tmp_path / "checkpoint.safetensors"

    def begin():
        torch.manual_seed(0)
        network = build(settings.encoder, None, 3)
        return network, make_optimiser(network, settings, seed=0, device="cpu")

    def step(network, optimiser):
        loss = network(torch.rand(2, 3, 64, 64)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    one = begin()
    assert read_checkpoint_into(file, *one) == []
    step(*one)
    write_checkpoint(file, *one, [(1, "0.5", "1e-3", "")])
    then = [step(*one), step(*one)]
    other = begin()
    assert read_checkpoint_into(file, *other) == [[1, "0.5", "1e-3", ""]]
    assert [step(*other), step(*other)] == then
    for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(a, b)
    trained = [
        [value for group in optimiser.param_groups for value in group["params"]]
        for _, optimiser in (one, other)
    ]
    for a, b in zip(*trained, strict=True):
        moments = one[1].state[a]["exp_avg"], other[1].state[b]["exp_avg"]
        assert torch.equal(*moments) and moments[0].stride() == moments[1].stride()

    content = file.read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2]):
        file.write_bytes(damaged)
        before = {name: value.clone() for name, value in other[0].state_dict().items()}
        assert read_checkpoint_into(file, *other) == []
        assert all(torch.equal(before[name], v) for name, v in other[0].state_dict().items())


# ---- the workflow -----------------------------------------------------------------------------


def kill_when(project: Project, pattern: str, *arguments: object, program="snakemake") -> None:
    """Start a program, and kill its whole group once two files that match are there."""
    with launched(project, program, *arguments) as running:
        while len(list(project.folder.glob(pattern))) < 2:
            assert running.poll() is None, finish(running)
            time.sleep(0.02)
    shutil.rmtree(project.folder / ".snakemake/locks", ignore_errors=True)


@pytest.mark.slow
def test_a_killed_workflow_goes_on(tmp_path):
    make_folder(tmp_path, train=2, val=40)
    masks = f"{DATA}/masks/val"
    calm = Project(tmp_path / "calm", data=tmp_path)
    status, said = snakemake(calm, masks)
    assert status == 0, said
    project = Project(tmp_path / "killed", data=tmp_path)
    shutil.copytree(calm.folder / "data/models", project.folder / "data/models")
    kill_when(project, f"{DATA}/masks/.val.*/*-crf/*.png", masks)
    status, said = snakemake(project, masks, "--set-scatter", "segment=3")
    assert status == 0, said
    logs = project.folder / DATA / "logs"
    parts = [numbers(log.read_text(), "segment val") for log in logs.glob("segment_part/val/*")]
    print(parts)
    assert sum(total for _, total in parts) == 40 and sum(todo for todo, _ in parts) < 40
    assert numbers((logs / "segment_split/val.log").read_text(), "segment val") == (0, 40)
    assert made(project, masks) == made(calm, masks)
    assert not list((project.folder / masks).parent.glob(".val.*"))
    assert not list(project.folder.glob(f"{DATA}/parts/val/*")), "temporary"

    # A concept more: masks are made anew, and no network sees a picture of the benchmark.
    concepts = ["orange", "lemon", "broccoli", "zebra"]
    project.config["concepts"] = concepts
    plan = snakemake(project, masks, "--dry-run", "--quiet", "host")[1]
    assert "segment_split" in plan and "embed_split" not in plan
    status, said = snakemake(project, masks, "--forcerun", "embed_split")
    assert status == 0, said
    assert numbers((logs / "embed_split/val.log").read_text(), "features of val") == (0, 40)

    # Photographs: what was segmented before the kill is not segmented again, though Snakemake
    # empties the folder of results. (The packaged model doubts that these discs are fruit.)
    photos = ["segment", tmp_path / "bench/images/val", "--concepts", "orange, lemon", "--doubtful"]
    photos += ["--out", "found", "--work", "work"]
    kill_when(project, "work/coco/*.json", *photos, program="reco")
    done = list((project.folder / "work/coco").glob("*.json"))
    times = {path: path.stat().st_mtime_ns for path in done}
    shutil.rmtree(project.folder / "found")
    status, said = reco(project, *photos)
    assert status == 0, said
    assert 2 <= len(times) < 40 and all(p.stat().st_mtime_ns == t for p, t in times.items())
    for folder, suffix in (("masks", "png"), ("overlays", "jpg"), ("coco", "json")):
        assert len(list((project.folder / "found" / folder).glob(f"*.{suffix}"))) == 40
