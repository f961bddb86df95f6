"""Where numbers come from: the revision of the code, digests of folders, `reco trace`."""

import subprocess

import pytest

from reco.errors import RecoError
from reco.files import digest_folders, write_json
from reco.revision import read_revision, uncommitted
from reco.workflow.trace import Made, ancestors, trace


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository with a source file and a result."""
    folder = tmp_path / "checkout"
    for name in ("src/a.py", "results/stamps/metrics.csv"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("1\n")
    git(tmp_path, "init", "--quiet", "checkout")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_results_and_notes_of_a_user_are_no_change_of_the_code(checkout):
    (checkout / "results/stamps/metrics.csv").write_text("2\n")
    (checkout / "mine.yaml").write_text("seed: 1\n")
    revision = read_revision(checkout / "src")
    assert not revision.dirty and len(revision.commit) == 40
    assert str(revision) == revision.commit[:12]


def test_edits_and_new_modules_are(checkout):
    (checkout / "src/a.py").write_text("2\n")
    (checkout / "src/ü b.py").write_text("new\n")
    revision = read_revision(checkout)
    assert revision.changed == ("src/a.py", "src/ü b.py")
    assert str(revision).endswith("with uncommitted changes (src/a.py, src/ü b.py)")


def test_without_git_nothing_is_claimed(tmp_path):
    assert read_revision(tmp_path) is None


def test_what_is_made_from_uncommitted_code_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("reco.revision.read_revision", lambda: None)
    write_json(tmp_path / "clean.json", {"git": {"changed": []}})
    write_json(tmp_path / "dirty.json", {"git": {"changed": [f"src/{c}.py" for c in "abcd"]}})
    write_json(tmp_path / "none.json", {"git": None})
    assert uncommitted(tmp_path / "clean.json") == uncommitted(tmp_path / "none.json") == ""
    said = uncommitted(tmp_path / "dirty.json")
    assert said == "Made with uncommitted changes: src/a.py, src/b.py, src/c.py and 1 more."


def test_digest_is_that_of_sha256sum(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b", "a", "deep/c"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".hidden").write_text("a time stamp")
    command = "find . -type f ! -name '.*' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum"
    done = subprocess.run(
        f"{command} | sha256sum", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    found = digest_folders([tmp_path])
    assert found == {tmp_path.as_posix(): {"files": 3, "sha256": done.stdout.split()[0]}}
    assert digest_folders([tmp_path / "a", tmp_path / "b"])[tmp_path.as_posix()]["files"] == 2


def test_ancestors_stand_in_the_order_of_making():
    made = {
        name: Made("rule", "", "", tuple(sources), "ok")
        for name, sources in {"d": "bc", "c": "a", "b": "ca", "a": "x", "other": ""}.items()
    }
    assert ancestors("d", made) == ["d", "b", "c", "a"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("results/none/metrics.csv", "no such file"),
        ("results/README.md", "below results/<experiment>/"),
        ("results/mine/metrics.csv", "no record of a run"),
        ("/etc/hostname", "not in this project"),
    ],
)
def test_what_cannot_be_traced_is_refused(tmp_path, monkeypatch, file, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/mine").mkdir(parents=True)
    (tmp_path / "results/README.md").write_text("")
    (tmp_path / "results/mine/metrics.csv").write_text("")
    with pytest.raises(RecoError, match=message):
        trace(file)
