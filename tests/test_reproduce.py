"""The papers' tables on small made data sets, in the layouts of the real ones."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from made import COLOURS, photo

from mrnn.cli import main
from mrnn.corpora import read_corpora
from mrnn.evaluation.worth import END, image_worth, parts_of_speech
from mrnn.models.hand import TorchRuntime
from mrnn.networks import load_encoder
from mrnn.networks.alexnet import AlexNet
from mrnn.pipeline import Pipeline, load
from mrnn.recipes import RECIPES, beyond, train_recipe
from mrnn.recipes.recipe import before
from mrnn.recipes.training import Call
from mrnn.reproduce import TABLES, Reproduction, steps
from mrnn.reproduce.reported import CAPTIONING, RETRIEVAL
from mrnn.tasks.generation import generate

NOUNS = "square circle dog cat man woman child house tree car boat bird horse flower table chair"
VERBS = "shows holds sees has finds takes likes wants"
WORDS = [*f"{NOUNS} {VERBS}".split(), "large", "small", "old", "new", "and", "near", "with", "under", "the", "a"]


def sentences(n: int, colour: str, rng: np.random.Generator) -> list[str]:
    """Random sentences with word frequencies that fall as in language, so that n-grams can be discounted."""
    weights = 1 / np.arange(1, len(WORDS) + 1)
    return [
        f"a {colour} {' '.join(rng.choice(WORDS, rng.integers(3, 9), p=weights / weights.sum()))}" for _ in range(n)
    ]


def flickr_layout(folder: Path, n: int = 48, captions: int = 5, splits=("train", "dev", "test")) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    lists: dict[str, list[str]] = {split: [] for split in splits}
    for i in range(n):
        colour = list(COLOURS)[i % 4]
        name = f"{100000 + i}_0123456789.jpg"
        photo(folder / "images" / name, colour, i)
        lines += [f"{name}#{k}\t{s}" for k, s in enumerate(sentences(captions, colour, rng))]
        lists[splits[0] if i < n - 16 else splits[1 + i % (len(splits) - 1)]].append(name)
    (folder / "Made.token.txt").write_text("\n".join(lines) + "\n")
    for split, names in lists.items():
        (folder / f"Made.{split}Images.txt").write_text("\n".join(names) + "\n")
    return folder


def iaprtc12_layout(folder: Path, n: int = 48) -> Path:
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for i in range(n):
        colour = list(COLOURS)[i % 4]
        name = f"{i // 10:02}/{i}"
        photo(folder / "images" / f"{name}.jpg", colour, i)
        note = folder / "annotations_complete_eng" / f"{name}.eng"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(
            f"<DOC>\n<DOCNO>annotations/{name}.eng</DOCNO>\n<DESCRIPTION>{'; '.join(sentences(4, colour, rng))};"
            f"</DESCRIPTION>\n<IMAGE>images/{name}.jpg</IMAGE>\n</DOC>",
            encoding="latin-1",
        )
        lists["test" if i % 6 == 5 else "train"].append(name)
    for split, names in lists.items():
        (folder / f"iapr_{split}_list.txt").write_text("\n".join(names) + "\n")
    return folder


def coco_layout(folder: Path, n: int = 48) -> Path:
    rng = np.random.default_rng(0)
    images = []
    for i in range(n):
        colour = list(COLOURS)[i % 4]
        photo(folder / "images" / f"{i:012}.jpg", colour, i)
        split = "test" if i % 6 == 5 else "val" if i % 6 == 4 else "train"
        said = [{"raw": s} for s in sentences(5, colour, rng)]
        images.append({"filename": f"{i:012}.jpg", "split": split, "sentences": said})
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    flickr = flickr_layout(folder / "flickr")
    return {
        "flickr8k": flickr,
        "flickr30k": flickr,
        "iaprtc12": iaprtc12_layout(folder / "iaprtc12"),
        "coco": coco_layout(folder / "coco"),
    }


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(0)
    torch.save(AlexNet().state_dict(), path)
    return path


# Each recipe on data in the layout of a table that has it, and of each table's rows those with another encoder.
OF = {row.recipe: table for table in ("flickr8k", "coco", "iaprtc12") for row in TABLES[table]}
CASES = {
    **{name: (OF.get(name, "coco" if name == "base" else "flickr8k"), name, "") for name in RECIPES},
    **{f"mrnn {table}": (table, "mrnn", "") for table in ("flickr8k", "coco")},
    **{
        f"{row.recipe} {row.encoder}": (table, row.recipe, row.encoder)
        for table in OF.values()
        for row in TABLES[table]
        if row.encoder
    },
}


@pytest.fixture
def quick(monkeypatch):
    """Encoders are loaded once for all recipes, and no curves are drawn."""
    monkeypatch.setattr("mrnn.recipes.training.load_encoder", once)
    monkeypatch.setattr("mrnn.recipes.training.draw_training", lambda log, picture: None)


once = cache(load_encoder)


@pytest.mark.parametrize("case", CASES)
def test_every_recipe_trains_on_made_data_in_the_layout_of_its_own(case, data, alexnet, quick, tmp_path):
    layout, name, encoder = CASES[case]
    recipe = RECIPES[name]()
    recipe = replace(recipe, encoder=recipe.encoder.replace("@288", "@96"))  # whole CNNs take their time
    if encoder:  # AlexNet or VGG-16: either gives features of one vector a photo
        recipe = replace(recipe, encoder=f"alexnet:{alexnet}")
    recipe = replace(
        recipe, training=replace(recipe.training, epochs=1), references=min(recipe.references, 20), after=""
    )
    corpus = read_corpora([data[layout]])
    pipeline = train_recipe(name, recipe, corpus, tmp_path / "run", Call(cache_folder=alexnet.parent / "cache"))
    assert pipeline.provenance["training"]["dev_perplexity"] > 1
    test = corpus.split("test")[0].path
    again, without = load(tmp_path / "run", "torch"), load(tmp_path / "run")
    assert again.fingerprint == without.fingerprint == pipeline.fingerprint
    assert again.caption(test)[0][0].text == pipeline.caption(test)[0][0].text
    assert not isinstance(without.model, TorchRuntime)
    assert exactly(without, test) == exactly(pipeline, test)


def exactly(pipeline: Pipeline, photo: Path) -> str:
    """A caption searched for without rounding, which each runtime does its own way."""
    image = pipeline.model.encode_image(pipeline.features([photo]))
    search = (pipeline.model, pipeline.vocabulary, image, pipeline.generation, pipeline.centre)
    return generate(*search, precision="float32")[0][0].text


def test_words_of_captions_without_photos_are_learned_and_stay_known(data, alexnet, quick, tmp_path):
    text = tmp_path / "more.txt"
    text.write_text("a cat plays the piano\n" * 6)
    small = replace(RECIPES["classes"](), references=20)
    small = replace(small, training=replace(small.training, epochs=1))
    corpus, call = read_corpora([data["flickr8k"]]), Call(cache_folder=alexnet.parent / "cache")
    first = train_recipe("first", small, corpus, tmp_path / "first", replace(call, text=[text]))
    assert {"cat", "piano"} <= set(first.model.model.config.words)
    further = replace(small, start=str(tmp_path / "first"))
    second = train_recipe("second", further, corpus, tmp_path / "second", call)
    assert second.vocabulary.tokens == first.vocabulary.tokens
    with pytest.raises(ValueError, match=r"differs in model\.ids, model\.vocabulary, model\.words, start;"):
        train_recipe("second", small, corpus, tmp_path / "second", call)


def test_what_a_recipe_comes_after_is_trained_first_and_learns_the_text(data, alexnet, quick, tmp_path, monkeypatch):
    text = tmp_path / "more.txt"
    text.write_text("a cat plays the piano\n" * 6)
    small = replace(RECIPES["classes"](), references=20)
    first = replace(small, training=replace(small.training, epochs=1))
    second = replace(first, after="first", training=replace(first.training, epochs=2))
    monkeypatch.setitem(RECIPES, "first", lambda: first)
    corpus, out, steps = read_corpora([data["flickr8k"]]), tmp_path / "out", []
    call = Call(cache_folder=alexnet.parent / "cache", text=[text], on_step=steps.append)
    pipeline = train_recipe("second", second, corpus, out, call)
    start = load(out / "start")
    assert pipeline.vocabulary.tokens == start.vocabulary.tokens
    assert {"cat", "piano"} <= set(start.vocabulary.tokens)
    epochs = [(record.get("recipe"), record["epoch"]) for record in steps if "dev_perplexity" in record]
    assert epochs == [("first", 1), (None, 1), (None, 2)]
    assert start.provenance["training"]["recipe_name"] == "first"
    assert pipeline.fingerprint == load(out).fingerprint != start.fingerprint
    again = train_recipe("second", replace(second, start=str(out / "start")), corpus, tmp_path / "again", call)
    assert not (tmp_path / "again" / "start").exists()
    assert again.vocabulary.tokens == start.vocabulary.tokens


def test_what_is_changed_of_a_recipe_is_changed_of_the_one_before():
    asked = RECIPES["agreement"]()
    changed = replace(asked, min_count=2, model=replace(asked.model, recurrent=512))
    changed = replace(changed, training=replace(changed.training, seed=3, epochs=1, optimizer="sgd", weight_decay=0.0))
    first = RECIPES["mrnn"]()
    expected = replace(first, min_count=2, model=replace(first.model, recurrent=512))
    assert before(first, asked, changed) == replace(expected, training=replace(first.training, seed=3))
    tuned = RECIPES["tuned"]()
    changed = replace(tuned, model=replace(tuned.model, recurrent=512), mirror=False)
    first = RECIPES[tuned.after]()
    assert before(first, tuned, changed) == replace(first, model=replace(first.model, recurrent=512), mirror=False)
    changed = replace(tuned, encoder="vgg16", model=replace(tuned.model, block=9))
    assert before(first, tuned, changed) == replace(first, encoder="vgg16")
    again = RECIPES["tuned-self-critical"]()
    changed = replace(again, encoder="vgg16", model=replace(again.model, block=9))
    expected = replace(tuned, encoder="vgg16", model=replace(tuned.model, block=9))
    assert before(tuned, again, changed) == expected


def test_a_recipe_that_cannot_come_after_another_is_refused(data, tmp_path):
    corpus = read_corpora([data["flickr8k"]])
    (tmp_path / "checkpoint.safetensors").write_bytes(b"of another recipe")
    for after, message in (("nonsense", "no recipe 'nonsense' to come after"), ("gt2", "holds another run")):
        with pytest.raises(ValueError, match=message):
            train_recipe("agreement", replace(RECIPES["agreement"](), after=after), corpus, tmp_path)


def test_recipes_belong_to_tables():
    listed = {row.recipe for rows in TABLES.values() for row in rows}
    assert listed == set(RECIPES) - set(beyond.RECIPES)
    assert set(CAPTIONING) == set(RETRIEVAL) == set(TABLES)


def test_a_tables_steps_have_names_of_their_own():
    for table in TABLES:
        names = [step.name for step in steps(table)]
        assert len(set(names)) == len(names)
    assert {"rnn", "mrnn-seed0", "mrnn-alexnet", "mrnn-wide-vgg16"} <= {step.name for step in steps("coco")}


# A few rows of few epochs, without METEOR, which no table has.
FEW_ROWS = """
from dataclasses import replace
from pycocoevalcap.meteor import meteor
meteor.Meteor = type("Meteor", (), {"compute_score": lambda self, truths, results: (0.0, [])})
from mrnn.recipes import RECIPES
from mrnn.reproduce import TABLES
for name in ("rnn", "mrnn"):
    recipe = RECIPES[name]()
    RECIPES[name] = lambda recipe=replace(recipe, training=replace(recipe.training, epochs=4)): recipe
blind, seen, _, missing = TABLES["flickr30k"]
TABLES["flickr30k"] = (blind, replace(seen, seeds=(0, 1)), missing)
from mrnn.cli import main
raise SystemExit(main())
"""


def test_a_killed_reproduction_goes_on_and_gives_its_tables(data, tmp_path, capsys):
    out = tmp_path / "results"
    options = ["--out", str(out), "--vgg16", str(tmp_path / "nothing.pth"), "--cache", str(tmp_path / "cache")]
    arguments = ["reproduce", "flickr30k", "--data", str(data["flickr30k"]), *options]
    command = [sys.executable, "-c", FEW_ROWS, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = out / "figures" / "rnn.json"
    while not first.is_file():
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = first.read_bytes()

    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert first.read_bytes() == kept, "what was measured is not measured again"
    assert re.search(r"rnn +done", result.stderr)
    assert re.search(r"mrnn-seed0 +to do, about 30 min", result.stderr)
    assert "minutes left" in result.stderr
    assert re.search(r"mrnn-wide-vgg16 +not run: .*nothing.pth: no such file", result.stderr)

    tables = (out / "tables.md").read_text()
    assert result.stdout.strip() == tables.strip()
    assert "| *m-RNN, VGG: reported, arXiv 1412.6632, M* | 20.72 | 0.600 0.410 0.280 0.190 |" in tables
    assert re.search(r"\| m-RNN, EfficientNet-Lite2, 2 seeds \| \d+\.\d\d ± \d+\.\d\d \|", tables)
    assert "m-RNN, EfficientNet-Lite2, consensus re-ranking" in tables
    assert "| m-RNN, wider, shared weights, VGG-16 | not run | not run |" in tables
    assert "| chance, and every model without an image | " in tables
    assert "| ranked by the raw score |" in tables
    assert "| nouns |" in tables
    results = json.loads((out / "results.json").read_text())
    assert results["steps"]["mrnn-seed1"]["figures"]["perplexity"] > 1
    assert {"tables.md", "results.json", "training.png", "retrieval.png", "worth.png"} <= {
        p.name for p in out.iterdir()
    }

    assert main(["reproduce", "flickr30k", "--data", str(data["coco"]), "--out", str(out)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"mrnn: error: {out}: holds results of other data; " + (
        "give another --out, or delete it"
    )
    identity = json.loads((out / "identity.json").read_text())
    (out / "identity.json").write_text(json.dumps({**identity, "code": "of last year"}))
    assert main(arguments) == 1
    assert "holds results of another version of mrnn" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda d: flickr_layout(d, splits=("train", "dev")), "no photo in the split 'test'"),
        (lambda d: flickr_layout(d, n=200, captions=1), "one caption a photo"),
        (lambda d: flickr_layout(d, n=20, captions=2), r"only \d+ words occur 5 times or more"),
    ],
)
def test_data_that_cannot_give_the_tables_is_refused(make, reason, tmp_path):
    corpus = read_corpora([make(tmp_path / "data")])
    with pytest.raises(ValueError, match=reason) as error:
        Reproduction("flickr8k", corpus, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_strange_folder_and_a_strange_table_are_refused(data, tmp_path):
    corpus = read_corpora([data["flickr8k"]])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty and holds no results"):
        Reproduction("flickr8k", corpus, tmp_path / "photos")
    with pytest.raises(ValueError, match="no table 'flickr9k'; there are flickr8k"):
        Reproduction("flickr9k", corpus, tmp_path / "out")


def test_parts_of_speech():
    assert parts_of_speech(["two", "dogs", "run", "in", "the", "white", "snow"]) == [
        "numbers",
        "nouns",
        "verbs",
        "prepositions",
        "articles and determiners",
        "adjectives",
        "nouns",
    ]


def test_the_images_worth_is_bits_saved_a_token():
    ln2 = float(np.log(2))
    worth = image_worth([["two", "dogs"]], [[-1 * ln2, -2 * ln2, -3 * ln2]], [[-2 * ln2, -5 * ln2, -3 * ln2]])
    assert worth["nouns"] == {"tokens": 1, "bits": 2, "without": 5, "worth": 3}
    assert worth[END]["worth"] == 0
    assert worth["all"]["worth"] == pytest.approx(4 / 3)
    assert worth["all"]["tokens"] == 3
