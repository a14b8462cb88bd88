"""What a package index is told."""

import subprocess

import pytest

from hatch_build import Readme, address

README = "# m\n\n![A dog](docs/dog.png) [how](docs/how.md) [paper](https://arxiv.org/abs/1410.1090) [here](#m)\n"


def told(folder) -> dict:
    metadata: dict = {}
    Readme(str(folder), {}).update(metadata)
    return metadata


def git(folder, *asked):
    command = ["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@example.com", *asked]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "README.md")
    git(tmp_path, "commit", "--quiet", "-m", "m")
    return tmp_path


def test_pictures_and_links_are_those_of_the_repository(repository):
    git(repository, "remote", "add", "origin", "git@example.com:some/mrnn.git")
    commit, metadata = git(repository, "rev-parse", "HEAD"), told(repository)
    assert metadata["urls"] == {"Source": "https://example.com/some/mrnn"}
    text = metadata["readme"]["text"]
    assert f"![A dog](https://example.com/some/mrnn/raw/{commit}/docs/dog.png)" in text
    assert f"[how](https://example.com/some/mrnn/blob/{commit}/docs/how.md)" in text
    assert "[paper](https://arxiv.org/abs/1410.1090) [here](#m)" in text


def test_a_source_distribution_keeps_them(tmp_path):
    (tmp_path / "PKG-INFO").write_text(
        "Metadata-Version: 2.4\nProject-URL: Source, https://example.com/some/mrnn\n\n![A dog](https://x.org/ö.png)\n",
        encoding="utf-8",
    )
    metadata = told(tmp_path)
    assert metadata["urls"] == {"Source": "https://example.com/some/mrnn"}
    assert metadata["readme"]["text"] == "![A dog](https://x.org/ö.png)\n"


def test_without_an_address_no_picture_is_broken(repository):
    assert told(repository)["urls"] == {}
    assert told(repository)["readme"]["text"] == README.replace("![A dog](docs/dog.png)", "*A dog*").replace(
        "[how](docs/how.md)", "how"
    )


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@gitlab.com:22/g/s/b.git", "https://gitlab.com/g/s/b"),
        ("https://name:secret@codeberg.org/a/b", "https://codeberg.org/a/b"),
        ("/home/me/mrnn", ""),
        ("../mrnn", ""),
        ("file:///home/me/mrnn", ""),
        ("host:mrnn", ""),
    ],
)
def test_a_remote_names_a_page_or_none(remote, url):
    assert address(remote) == url
