import csv
import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import captions, lines, splits
from PIL import Image

from mrnn.corpora import SPLITS, combine, read_corpora, read_corpus
from mrnn.corpora.base import Report, photo_key, seeded_split
from mrnn.corpora.sentences import read_sentences
from mrnn.corpora.table import read_pairs

JPEG = io.BytesIO()
Image.new("RGB", (2, 2)).save(JPEG, "JPEG")


def photos(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG.getvalue())


def flickr(folder):
    photos(folder / "Flicker8k_Dataset", "1000_ab.jpg", "2000_cd.jpg", "3000_ef.jpg", "4000_gh.jpg")
    lines(
        folder / "Flickr8k.token.txt",
        "1000_ab.jpg#0\tA dog .",
        "1000_ab.jpg#1\tA  black dog .",
        "2000_cd.jpg#0\tA cat , a bird .",
        "3000_ef.jpg#0\tEin Mädchen .",
        "4000_gh.jpg#0\tIn no list .",
    )
    lines(folder / "Flickr8k.lemma.token.txt", "1000_ab.jpg#0\tlemma")
    lines(folder / "Flickr_8k.trainImages.txt", "1000_ab.jpg")
    lines(folder / "Flickr_8k.devImages.txt", "2000_cd.jpg")
    lines(folder / "Flickr_8k.testImages.txt", "3000_ef.jpg")


def karpathy(folder):
    photos(folder / "images", "val2014/a.jpg", "b.jpg", "c.jpg", "d.jpg")
    images = [
        {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": [{"raw": "A dog."}]},
        {
            "filename": "b.jpg",
            "split": "val",
            "sentences": [{"tokens": ["a", "cat"]}, {"raw": "Two cats", "tokens": []}],
        },
        {"filename": "c.jpg", "split": "test", "sentences": [{"raw": "c"}]},
        {"filename": "d.jpg", "split": "train", "sentences": [{"raw": "d"}]},
    ]
    lines(folder / "dataset_mine.json", json.dumps({"dataset": "mine", "images": images}))


def coco(folder):
    for year, n in (("train2014", 1), ("val2014", 2)):
        name = f"COCO_{year}_{n:012}.jpg"
        photos(folder / year, name)
        content = {
            "images": [{"id": n, "file_name": name}],
            "annotations": [
                {"id": 10 * n, "image_id": n, "caption": "A dog ."},
                {"id": 10 * n + 1, "image_id": n, "caption": "Dogs ."},
            ],
        }
        lines(folder / "annotations" / f"captions_{year}.json", json.dumps(content))


def annotation(n, description, folder="00", title="A title"):
    return (
        f"<DOC>\n<DOCNO>annotations/{folder}/{n}.eng</DOCNO>\n<TITLE>{title}</TITLE>\n"
        f"<DESCRIPTION>{description}</DESCRIPTION>\n<NOTES></NOTES>\n<LOCATION>Córdoba & Söhne</LOCATION>\n"
        f"<IMAGE>images/{folder}/{n}.jpg</IMAGE>\n</DOC>"
    )


def iaprtc12(folder):
    photos(folder / "images", "00/7.jpg", "00/2.jpg", "01/3.jpg")
    notes = folder / "annotations_complete_eng"
    lines(notes / "00" / "7.eng", annotation(7, "a niño's hat;\na girl &amp; a boy < 5 years; "), encoding="latin-1")
    lines(notes / "00" / "2.eng", annotation(2, "a dog'", title="broken <B> & title"), encoding="latin-1")
    lines(notes / "01" / "3.eng", annotation(3, "a tree;", "01"), encoding="latin-1")
    lines(folder / "iapr_train_list.txt", "00/7")
    lines(folder / "iapr_test_list.txt", "annotations_complete_eng/00/2.eng", "images/01/3.jpg")


def kaggle(folder):
    photos(folder / "Images", "a.jpg", "b.jpg")
    lines(folder / "captions.txt", "image,caption", "a.jpg,A dog , a cat , a bird .", 'b.jpg,"A ""big"" dog , sits"')


def kaggle_with_lists(folder):
    kaggle(folder)
    lines(folder / "Flickr_8k.trainImages.txt", "a.jpg")
    lines(folder / "Flickr_8k.testImages.txt", "b")


ROWS = [
    ("a.jpg", "A dog, wet", "train"),
    ("b.jpg", 'A "cat"', "val"),
    ("c.jpg", "犬が走る", "test"),
    ("a.jpg", "Two", ""),
]


def table(suffix, with_split=True, rows=ROWS):
    names = ("image", "caption", "split")[: 2 + with_split]

    def make(folder):
        photos(folder, *(name for name, *_ in rows))
        path = folder / f"photos{suffix}"
        records = [dict(zip(names, row, strict=False)) for row in rows]
        if suffix == ".parquet":
            pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pyarrow.Table.from_pylist(records), path)
        elif suffix == ".jsonl":
            lines(path, *(json.dumps(record, ensure_ascii=False) for record in records))
        else:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names, delimiter="\t" if suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(records)

    return make


TABLES = [".csv", ".tsv", ".jsonl", ".parquet"]
LAYOUTS = {
    "Flickr (token file)": flickr,
    "Flickr (captions.txt)": kaggle,
    "Karpathy (mine)": karpathy,
    "COCO": coco,
    "IAPR TC-12": iaprtc12,
    **{f"table (photos{suffix})": table(suffix) for suffix in TABLES},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_its_photos_exist(tmp_path, name):
    LAYOUTS[name](tmp_path)
    corpus = read_corpus(tmp_path)
    assert corpus.name == name
    assert corpus.photos
    assert all(photo.path.is_file() and photo.captions and photo.key for photo in corpus.photos)
    assert len({photo.key for photo in corpus.photos}) == len(corpus.photos)
    assert corpus.summary().startswith(f"{name}: {len(corpus.photos)} photos (")
    assert not corpus.report.counts
    assert corpus.fingerprint == read_corpus(str(tmp_path)).fingerprint


def test_flickr(tmp_path):
    flickr(tmp_path)
    corpus = read_corpus(tmp_path)
    assert captions(corpus)["1000_ab.jpg"] == ("A dog .", "A black dog .")
    assert captions(corpus)["3000_ef.jpg"] == ("Ein Mädchen .",)
    assert splits(corpus) == {"1000_ab.jpg": "train", "2000_cd.jpg": "dev", "3000_ef.jpg": "test", "4000_gh.jpg": ""}
    assert corpus.report.notes == ["photos in no split: 1"]


def test_kaggle_keeps_the_commas_of_a_caption(tmp_path):
    kaggle_with_lists(tmp_path)
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"a.jpg": ("A dog , a cat , a bird .",), "b.jpg": ('A "big" dog , sits',)}
    assert splits(corpus) == {"a.jpg": "train", "b.jpg": "test"}


def test_karpathy(tmp_path):
    karpathy(tmp_path)
    corpus = read_corpus(tmp_path)
    assert captions(corpus)["b.jpg"] == ("a cat", "Two cats")
    assert splits(corpus) == {"val2014/a.jpg": "train", "b.jpg": "dev", "c.jpg": "test", "d.jpg": "train"}


def test_coco(tmp_path):
    coco(tmp_path)
    corpus = read_corpus(tmp_path)
    assert set(captions(corpus).values()) == {("A dog .", "Dogs .")}
    assert sorted(splits(corpus).values()) == ["dev", "train"]
    assert [photo.key for photo in corpus.photos] == ["coco:1", "coco:2"]


def test_iaprtc12_reads_latin1_and_broken_xml_and_makes_each_phrase_a_caption(tmp_path):
    iaprtc12(tmp_path)
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {
        "images/00/7.jpg": ("a niño's hat", "a girl & a boy < 5 years"),
        "images/00/2.jpg": ("a dog'",),
        "images/01/3.jpg": ("a tree",),
    }
    assert [splits(corpus)[f"images/{n}.jpg"] for n in ("00/7", "00/2", "01/3")] == ["train", "test", "test"]


def test_iaprtc12_counts_what_is_broken(tmp_path):
    iaprtc12(tmp_path)
    lines(tmp_path / "annotations_complete_eng" / "01" / "4.eng", "<DOC><DESCRIPTION>a dog")
    lines(tmp_path / "annotations_complete_eng" / "01" / "5.eng", annotation(5, " ; ;", "01"))
    lines(tmp_path / "iapr_test_list.txt", "00/2", "nonsense", "09/9")
    report = read_corpus(tmp_path).report
    assert report.counts == {
        "broken annotations": 1,
        "empty captions": 1,
        "broken lines": 1,
        "missing photos": 1,
    }


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("as_file", [False, True])
def test_table(tmp_path, suffix, as_file):
    table(suffix)(tmp_path)
    corpus = read_corpus(tmp_path / f"photos{suffix}" if as_file else tmp_path)
    assert captions(corpus) == {"a.jpg": ("A dog, wet", "Two"), "b.jpg": ('A "cat"',), "c.jpg": ("犬が走る",)}
    assert splits(corpus) == {"a.jpg": "train", "b.jpg": "dev", "c.jpg": "test"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_caption_may_be_a_list(tmp_path, suffix):
    table(suffix, rows=[("a.jpg", ["one", "two"], "train"), ("b.jpg", ["three"], "dev")])(tmp_path)
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("one", "two"), "b.jpg": ("three",)}


@pytest.mark.parametrize("header", ["image,caption", "File_Name,Text", " photo , sentence "])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_column_names_and_line_ends(tmp_path, header, start, line_end):
    photos(tmp_path, "a.jpg", "b.jpg")
    text = line_end.join([start + header, "a.jpg,one", f'b.jpg,"two{line_end}lines"', ""])
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("one",), "b.jpg": ("two lines",)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("space", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_unusual_white_space_does_not_end_a_row(tmp_path, suffix, space):
    table(suffix, rows=[("a.jpg", f"one{space}two", "train"), ("b.jpg", "three", "dev")])(tmp_path)
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("one two",), "b.jpg": ("three",)}


def test_absolute_paths(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    photos(elsewhere, "a.jpg")
    lines(tmp_path / "set" / "t.csv", "image,caption", f"{elsewhere / 'a.jpg'},one")
    (photo,) = read_corpus(tmp_path / "set").photos
    assert photo.path == elsewhere / "a.jpg"


def test_a_table_counts_what_is_broken(tmp_path):
    photos(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", "never_named.png")
    lines(
        tmp_path / "t.csv",
        "image,caption,split",
        "a.jpg,one,train",
        "a.jpg,  ,train",
        "b.jpg,two,sideways",
        "c.jpg,,dev",
        "gone.jpg,three,train",
        "gone.jpg,four,train",
        "a.jpg,too,many,cells",
        "a.jpg",
        ",no photo,train",
    )
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"a.jpg": ("one",), "b.jpg": ("two",)}
    assert corpus.report.counts == {
        "empty captions": 2,
        "unknown split names": 1,
        "broken lines": 3,
        "missing photos": 1,
        "captions of absent photos": 2,
        "photos without captions": 2,
    }
    assert "broken lines: 3 (t.csv line 8, t.csv line 9, t.csv line 10)" in corpus.report.lines()


def test_a_jsonl_table_counts_broken_lines(tmp_path):
    photos(tmp_path, "a.jpg")
    rows = [{"image": "a.jpg", "caption": "one"}, {"image": 3, "caption": "x"}, {"image": "a.jpg"}, [1], None]
    rows += [{"image": "a.jpg", "caption": ["two", None, 3]}]
    lines(tmp_path / "t.jsonl", *map(json.dumps, rows), '{"image": "a.jpg", "cap', "")
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"a.jpg": ("one", "two")}
    assert corpus.report.counts == {"broken lines": 7}
    pairs, broken = read_pairs(tmp_path / "t.jsonl")
    assert [pair.caption for pair in pairs] == ["one", "two"]
    assert len(broken) == 7


def test_a_cell_without_end_is_a_broken_line(tmp_path):
    photos(tmp_path / "Images", "a.jpg")
    lines(tmp_path / "captions.txt", "image,caption", "a.jpg,one", f'a.jpg,"{"x" * 140_000}"')
    assert read_corpus(tmp_path).report.counts == {"broken lines": 1}
    lines(tmp_path / "pairs.csv", f'image,caption,"{"x" * 140_000}"')
    with pytest.raises(ValueError, match="not a CSV"):
        read_pairs(tmp_path / "pairs.csv")


def test_a_token_file_counts_what_is_broken(tmp_path):
    flickr(tmp_path)
    with (tmp_path / "Flickr8k.token.txt").open("a", encoding="utf-8") as file:
        file.write("1000_ab.jpg#1\tagain\nno tab\n1000_ab.jpg\tno number\n1000_ab.jpg#x\tno number\n\n")
        file.write("2000_cd.jpg#1\t \n5000_absent.jpg#0\tx\n5000_absent.jpg#1\ty\n")
    with (tmp_path / "Flickr_8k.testImages.txt").open("a") as file:
        file.write("6000_absent.jpg\n\n4000_gh\n")
    corpus = read_corpus(tmp_path)
    assert corpus.report.counts == {
        "duplicate keys": 1,
        "broken lines": 3,
        "empty captions": 1,
        "captions of absent photos": 2,
        "missing photos": 1,
    }
    assert corpus.report.examples["duplicate keys"] == ["1000_ab.jpg#1"]
    assert splits(corpus)["4000_gh.jpg"] == "test"


def test_kaggle_counts_broken_lines(tmp_path):
    kaggle(tmp_path)
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("no comma\nno photo, here\na.jpg,\n\n")
    assert read_corpus(tmp_path).report.counts == {"broken lines": 2, "empty captions": 1}


def test_karpathy_counts_what_is_broken(tmp_path):
    karpathy(tmp_path)
    path = tmp_path / "dataset_mine.json"
    content = json.loads(path.read_text())
    content["images"] += [content["images"][1], {"filename": "x.jpg"}, "no entry", None]
    content["images"].append({"filename": "gone.jpg", "split": "train", "sentences": [{"raw": "x"}]})
    content["images"].append({"filename": "c2.jpg", "split": 7, "sentences": []})
    content["images"].append({"filename": "c2.jpg", "split": "train", "sentences": [{"raw": None}]})
    path.write_text(json.dumps(content))
    assert read_corpus(tmp_path).report.counts == {
        "duplicate keys": 1,
        "broken entries": 5,
        "missing photos": 1,
        "captions of absent photos": 1,
    }


def test_coco_counts_what_is_broken(tmp_path):
    coco(tmp_path)
    path = tmp_path / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"] += [{"id": 99, "image_id": 12345, "caption": "x"}, content["annotations"][0]]
    content["annotations"] += [{"id": 97, "image_id": [1], "caption": "x"}, {"id": 98, "image_id": 1, "caption": None}]
    content["images"].append({"id": 3, "file_name": "gone.jpg"})
    path.write_text(json.dumps(content))
    assert read_corpus(tmp_path).report.counts == {
        "captions of absent photos": 1,
        "duplicate keys": 1,
        "missing photos": 1,
        "broken entries": 2,
    }


@pytest.mark.parametrize("make", [flickr, kaggle_with_lists, iaprtc12], ids=lambda make: make.__name__)
def test_a_photo_in_two_lists_is_refused(tmp_path, make):
    make(tmp_path)
    train, test = next(tmp_path.glob("*train*.txt")), next(tmp_path.glob("*test*.txt"))
    test.write_text(test.read_text() + train.read_text())
    with pytest.raises(ValueError, match="is in both train and test"):
        read_corpus(tmp_path)


def test_a_photo_in_both_coco_files_is_refused(tmp_path):
    coco(tmp_path)
    notes = tmp_path / "annotations"
    (notes / "captions_val2014.json").write_text((notes / "captions_train2014.json").read_text())
    with pytest.raises(ValueError, match="is in both train and dev"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("second", ["a.jpg", "./a.jpg", "x/../a.jpg", "images/a.jpg", "ABSOLUTE"])
def test_a_photo_in_two_splits_of_a_table_is_refused_whatever_it_is_called(tmp_path, second):
    photos(tmp_path / "images", "a.jpg", "x/b.jpg")
    second = os.fspath(tmp_path / "images" / "a.jpg") if second == "ABSOLUTE" else second
    lines(tmp_path / "t.csv", "image,caption,split", "a.jpg,one,train", f"{second},two,test")
    with pytest.raises(ValueError, match="is in both train and test"):
        read_corpus(tmp_path)


def test_two_names_of_a_photo_fall_into_one_drawn_split(tmp_path):
    names = [f"p{i}.jpg" for i in range(60)]
    photos(tmp_path, *names)
    lines(tmp_path / "t.csv", "image,caption", *(f"{start}{name},one" for name in names for start in ("", "./")))
    assert_splits_share_nothing(read_corpus(tmp_path))


def assert_splits_share_nothing(corpus):
    for of in (lambda photo: photo.key, lambda photo: photo.path.resolve()):
        sets = [{of(photo) for photo in corpus.photos if photo.split == split} for split in ("", *SPLITS)]
        assert sum(map(len, sets)) == len(set().union(*sets))


NAMES = st.sampled_from([f"{start}{n}.jpg" for start in ("", "./", "images/", "images/./") for n in "abcde"])


@given(st.lists(st.tuples(NAMES, st.sampled_from(["train", "val", "test", "", "sideways"])), min_size=1))
@settings(max_examples=60)
def test_no_table_makes_splits_that_share_a_photo(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    photos(folder / "images", *(f"{n}.jpg" for n in "abcde"))
    lines(folder / "t.csv", "image,caption,split", *(f"{name},x,{split}" for name, split in rows))
    try:
        corpus = read_corpus(folder)
    except ValueError as error:
        assert "is in both" in str(error)
    else:
        assert_splits_share_nothing(corpus)
        assert sum(len(photo.captions) for photo in corpus.photos) == len(rows)


@pytest.mark.parametrize("suffix", TABLES)
def test_a_drawn_split_is_stable_when_photos_are_added(tmp_path, suffix):
    rows = [(f"p{i}.jpg", "a dog") for i in range(300)]
    table(suffix, with_split=False, rows=rows[:200])(tmp_path)
    before = read_corpus(tmp_path)
    table(suffix, with_split=False, rows=rows[::-1])(tmp_path)
    after = read_corpus(tmp_path)
    assert splits(before) == {name: splits(after)[name] for name in splits(before)}
    counts = [len(after.split(split)) for split in SPLITS]
    assert sum(counts) == 300
    assert 210 <= counts[0] <= 270
    assert any("no split is given" in note for note in after.report.notes)


def test_seeds_draw_different_splits():
    assert [seeded_split(str(i)) for i in range(100)] == [seeded_split(str(i), 0) for i in range(100)]
    assert [seeded_split(str(i)) for i in range(100)] != [seeded_split(str(i), 1) for i in range(100)]


def test_a_dev_split_is_held_out_of_train_alone_if_there_is_none(tmp_path):
    rows = [(f"p{i}.jpg", "a dog", "test" if i % 2 else "train") for i in range(400)]
    table(".csv", rows=rows)(tmp_path)
    corpus = read_corpus(tmp_path)
    given_split = {name: split for name, _, split in rows}
    assert 2 <= len(corpus.split("dev")) <= 25
    assert all(given_split[photo.id] == "train" for photo in corpus.split("dev"))
    assert len(corpus.split("test")) == 200
    assert any("no dev split" in note for note in corpus.report.notes)


def test_a_split_that_is_not_there_is_refused_by_name(tmp_path):
    kaggle_with_lists(tmp_path)
    with pytest.raises(ValueError, match=r"no photo in the split 'nonsense'; it has .*train"):
        read_corpus(tmp_path).split("nonsense")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("Flickr8k.token.txt", "a.jpg#0\tone\na.jpg#1\tcafé\n", 2),
        ("captions.txt", "image,caption\na.jpg,one\na.jpg,café\n", 3),
        ("t.csv", "image,caption\na.jpg,café\n", 2),
        ("t.tsv", "image\tcaption\na.jpg\tone\n\na.jpg\tcafé\n", 4),
        ("t.jsonl", '{"image": "a.jpg", "caption": "one"}\n{"image": "a.jpg", "caption": "café"}\n', 2),
        ("dataset_x.json", '{"images":\n"é"}', 2),
        ("captions_val.json", '{"images":\n\n"é"}', 3),
    ],
)
def test_a_wrong_encoding_is_refused_by_line(tmp_path, name, content, line):
    photos(tmp_path, "a.jpg")
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}: line {line} is not UTF-8"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (None, b""),
        ("readme.txt", b"nothing here\n"),
        ("captions.txt", b"a.jpg: a dog\n"),
        ("t.csv", b"a,b\n1,2\n"),
        ("t.csv", b""),
        ("t.csv", b"\xff\xfe\x00"),
        ("t.jsonl", b"not json\n"),
        ("t.jsonl", b"[1]\n"),
        ("t.parquet", b"not parquet"),
        ("dataset.json", b"{"),
        ("dataset.json", b"[]"),
        ("dataset.json", b'{"images": {}}'),
        ("dataset.json", b'{"images": []}'),
        ("captions_val.json", b"{}"),
        ("captions_val.json", b"[]"),
        ("captions_val.json", b'{"images": [1], "annotations": []}'),
        ("captions_val.json", b'{"images": [], "annotations": []}'),
    ],
)
def test_what_is_no_data_set_is_refused_by_name(tmp_path, name, content):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=tmp_path.name):
        read_corpus(tmp_path)


@pytest.mark.parametrize("name", ["absent", "photo.jpg"])
def test_a_path_that_is_no_data_set_is_refused(tmp_path, name):
    photos(tmp_path, "photo.jpg")
    with pytest.raises(ValueError, match=name):
        read_corpus(tmp_path / name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_data_set_without_its_photos_is_refused(tmp_path, name):
    LAYOUTS[name](tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match="no photo with a caption is left"):
        read_corpus(tmp_path)


def test_a_photo_that_one_data_set_holds_out_leaves_the_other_splits_of_others(tmp_path):
    photos(tmp_path / "one", *(f"{n}000268201_693b08cb0e.jpg" for n in (1, 2, 4)), "dev.jpg")
    photos(tmp_path / "two", "1000268201.jpg", "3000268201.jpg", "4000268201.jpg")
    lines(
        tmp_path / "one" / "t.csv",
        "image,caption,split",
        "1000268201_693b08cb0e.jpg,x,test",
        "2000268201_693b08cb0e.jpg,y,train",
        "4000268201_693b08cb0e.jpg,y,dev",
        "dev.jpg,z,dev",
    )
    lines(
        tmp_path / "two" / "t.csv",
        "image,caption,split",
        "1000268201.jpg,x,train",
        "3000268201.jpg,y,dev",
        "4000268201.jpg,y,test",
        f"{tmp_path / 'one' / 'dev.jpg'},z,train",
    )
    both = read_corpora([tmp_path / "one", tmp_path / "two"])
    assert [photo.id for photo in both.split("train")] == ["2000268201_693b08cb0e.jpg"]
    assert [photo.id for photo in both.split("dev")] == ["dev.jpg", "3000268201.jpg"]
    assert [photo.id for photo in both.split("test")] == ["1000268201_693b08cb0e.jpg", "4000268201.jpg"]
    assert dict(both.report.counts) == {
        "train photos that another split holds": 2,
        "dev photos that another split holds": 1,
    }
    assert_splits_share_nothing(both)


def test_a_data_set_that_holds_a_photo_twice_keeps_it_in_one_split(tmp_path):
    coco(tmp_path / "coco")
    name = f"{2:012}.jpg"
    photos(tmp_path / "coco" / "train2017", name)
    content = {
        "images": [{"id": 2, "file_name": name}],
        "annotations": [{"id": 1, "image_id": 2, "caption": "A dog."}],
    }
    lines(tmp_path / "coco" / "annotations" / "captions_train2017.json", json.dumps(content))
    corpus = read_corpus(tmp_path / "coco")
    assert splits(corpus) == {f"COCO_train2014_{1:012}.jpg": "train", f"COCO_val2014_{2:012}.jpg": "dev"}
    assert corpus.report.counts["train photos that another split holds"] == 1
    photos(tmp_path / "table", "a.jpg", "c.jpg")
    (tmp_path / "table" / "b.jpg").symlink_to("a.jpg")
    lines(tmp_path / "table" / "t.csv", "image,caption,split", "a.jpg,x,train", "b.jpg,y,test", "c.jpg,z,train")
    corpus = read_corpus(tmp_path / "table")
    assert {photo.id for photo in corpus.photos} == {"b.jpg", "c.jpg"}
    assert_splits_share_nothing(corpus)


def test_a_short_number_is_flickrs_only_in_a_data_set_of_flickr(tmp_path):
    for name, split in (("one", "test"), ("two", "train")):
        photos(tmp_path / name, "10001.jpg", "b.jpg")
        lines(tmp_path / name / "t.csv", "image,caption,split", f"10001.jpg,x,{split}", "b.jpg,y,train")
    assert len(read_corpora([tmp_path / "one", tmp_path / "two"]).photos) == 4
    flickr(tmp_path / "flickr")
    photos(tmp_path / "flickr", "36979.jpg")
    lines(tmp_path / "flickr" / "Flickr8k.token.txt", "36979.jpg#0\tA dog .")
    assert [photo.key for photo in read_corpus(tmp_path / "flickr").photos] == ["flickr:36979"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("000000000009.webp", "coco:9"),
        ("COCO_val2014_000000000009.jpeg", "coco:9"),
        ("1000344755.png", "flickr:1000344755"),
        ("1000268201_693b08cb0e.webp", "flickr:1000268201"),
    ],
)
def test_a_photo_is_known_again_whatever_its_format(tmp_path, name, key):
    assert photo_key(tmp_path / name) == key


def test_nothing_is_held_out_of_a_data_set_beside_one_that_gives_a_dev_split(tmp_path):
    names = [f"{i}.jpg" for i in range(40)]
    for folder in ("whole", "given"):
        photos(tmp_path / folder, *(f"{folder}{name}" for name in names))
        splits = ["dev" if folder == "given" and i < 3 else "train" for i in range(40)]
        rows = (f"{folder}{name},a dog,{split}" for name, split in zip(names, splits, strict=True))
        lines(tmp_path / folder / "t.csv", "image,caption,split", *rows)
    alone = read_corpus(tmp_path / "whole")
    assert len(alone.split("dev")) == 2
    both = read_corpora([tmp_path / "whole", tmp_path / "given"])
    assert [photo.id for photo in both.split("dev")] == ["given0.jpg", "given1.jpg", "given2.jpg"]
    assert len(both.split("train")) == 77
    assert not any("held out" in note for note in both.report.notes)


@pytest.mark.parametrize("where", ["", "images/", "images/x/"])
def test_photos_without_captions_are_counted_wherever_photos_lie(tmp_path, where):
    photos(tmp_path, f"{where}a.jpg", f"{where}b.jpg", f"{where}c.jpg")
    lines(tmp_path / "t.csv", "image,caption", f"{where}a.jpg,x", f"{where}b.jpg,y")
    report = read_corpus(tmp_path).report
    assert report.counts["photos without captions"] == 1
    assert report.examples["photos without captions"] == ["c.jpg"]


def test_captions_that_cannot_be_used_are_counted(tmp_path):
    photos(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [{"image": "a.jpg", "caption": c} for c in ("A dog.", "!!!", "Half \ud83d.", "x" * 10_001, "two\nlines")]
    rows += [{"image": name, "caption": "A cat."} for name in ("b.jpg", "c.jpg", f"{'n' * 300}.jpg")]
    deep = '{"image": "a.jpg", "caption": ' + "[" * 100_000 + "]" * 100_000 + "}"
    lines(tmp_path / "t.jsonl", "", "broken", *map(json.dumps, rows), deep)
    (tmp_path / "a.csv").mkdir()
    corpus = read_corpus(tmp_path)
    assert captions(corpus)["a.jpg"] == ("A dog.", "two lines")
    assert dict(corpus.report.counts) == {
        "broken lines": 2,
        "captions without a word": 1,
        "captions that are no Unicode": 1,
        "captions of more than 10,000 characters": 1,
        "captions of several lines": 1,
        "missing photos": 1,
        "captions of absent photos": 1,
    }


def test_a_data_set_given_twice_is_refused(tmp_path):
    flickr(tmp_path / "one")
    with pytest.raises(ValueError, match="given twice"):
        read_corpora([tmp_path / "one", tmp_path / "one" / ".." / "one"])


def test_photos_of_iaprtc12_without_annotations_are_counted(tmp_path):
    iaprtc12(tmp_path)
    photos(tmp_path / "images", "00/8.jpg", "01/9.jpg")
    assert read_corpus(tmp_path).report.counts["photos without captions"] == 2


def test_a_photo_is_known_across_data_sets_by_its_file(tmp_path):
    photos(tmp_path / "one" / "images", "a.jpg", "b.jpg")
    lines(tmp_path / "one" / "t.csv", "image,caption,split", "a.jpg,x,test", "b.jpg,x,dev")
    photos(tmp_path / "two", "c.jpg", "d.jpg")
    held_out = tmp_path / "one" / "images" / "a.jpg"
    lines(tmp_path / "two" / "t.csv", "image,caption,split", f"{held_out},x,train", "c.jpg,y,train", "d.jpg,z,dev")
    both = read_corpora([tmp_path / "one", tmp_path / "two"])
    assert [photo.id for photo in both.photos if photo.split == "train"] == ["c.jpg"]


def test_combining_adds_reports_and_leaves_one_data_set_alone(tmp_path):
    kaggle_with_lists(tmp_path / "one")
    flickr(tmp_path / "two")
    lines(tmp_path / "two" / "Flickr_8k.trainImages.txt", "1000_ab.jpg", "9000_absent.jpg")
    one, two = read_corpus(tmp_path / "one"), read_corpus(tmp_path / "two")
    assert combine([one]) is one
    both = combine([one, two])
    assert len(both.photos) == len(one.photos) + len(two.photos)
    assert both.report.counts == {"missing photos": 1}
    assert both.name == f"{one.name} + {two.name}"
    assert two.report.counts == {"missing photos": 1}


def test_the_fingerprint_follows_captions_and_splits(tmp_path):
    table(".csv")(tmp_path)
    before = read_corpus(tmp_path).fingerprint
    table(".csv", rows=[*ROWS[:-1], ("a.jpg", "Three", "")])(tmp_path)
    caption = read_corpus(tmp_path).fingerprint
    table(".csv", rows=[*ROWS[:-1], ("b.jpg", "Three", "")])(tmp_path)
    assert len({before, caption, read_corpus(tmp_path).fingerprint}) == 3


def test_flickr8k(data):
    corpus = read_corpus(data / "flickr8k")
    assert [len(corpus.split(split)) for split in SPLITS] == [6000, 1000, 1000]
    assert sum(len(photo.captions) for photo in corpus.photos) == 40_455
    assert corpus.report.counts == {"captions of absent photos": 5}
    assert_splits_share_nothing(corpus)


def test_coco_sample(data):
    corpus = read_corpus(data / "coco")
    assert [len(corpus.split(split)) for split in SPLITS] == [2000, 250, 250]
    assert all(photo.key.startswith("coco:") for photo in corpus.photos)
    assert_splits_share_nothing(corpus)


def test_captions_without_photos_leave_out_those_of_held_out_photos(tmp_path):
    images = [
        {"filename": "1000092795.jpg", "sentences": ["A cat sits.", {"raw": "A cat."}]},
        {"filename": "10002456.jpg", "sentences": ["A horse."]},
    ]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": images}))
    assert read_sentences(path) == ["A cat sits.", "A cat.", "A horse."]
    assert read_sentences(path, {"flickr:10002456"}) == ["A cat sits.", "A cat."]
    lines = tmp_path / "captions.txt"
    lines.write_text("a cat\n\n a dog \n")
    assert read_sentences(lines) == ["a cat", "a dog"]
    number = '{"images": [{"filename": "1.jpg", "sentences": [{"raw": 3}]}]}'
    for text in ("{", "[" * 100_000, '{"images": [{}]}', '{"images": []}', number):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"captions\.json"):
            read_sentences(path)


def test_an_example_of_what_is_wrong_is_one_line():
    report = Report()
    report.add("missing photos", "a\nb\x85c\u2028d.jpg")
    assert list(report.lines()) == ["missing photos: 1 (a b c d.jpg)"]
