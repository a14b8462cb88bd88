"""Data sets as they are downloaded: layouts, names of photos, and tables as other programs write them."""

import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import captions, lines, splits
from PIL import Image

from mrnn.corpora import read_corpora, read_corpus
from mrnn.corpora.table import read_pairs

NAMES = [f"{n}.jpg" for n in "abcdef"]


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(file, "JPEG")
    return file.getvalue()


def photos(folder, *names):
    """Photos, no two of which are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(tuple(os.urandom(3))))


def files(corpus, folder):
    return {photo.id: photo.path.relative_to(folder).as_posix() for photo in corpus.photos}


# Layouts


def metadata(path, rows):
    if path.suffix == ".jsonl":
        lines(path, *map(json.dumps, rows))
    elif path.suffix == ".csv":
        lines(path, ",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("start", ["", "data/"])
def test_an_imagefolder_with_a_table_in_each_split(tmp_path, suffix, start):
    for split in ("train", "validation", "test"):
        photos(tmp_path / f"{start}{split}", "0.jpg")
        rows = [{"file_name": "0.jpg", "caption_0": f"a {split}", "caption_1": "a dog"}]
        metadata(tmp_path / f"{start}{split}/metadata{suffix}", rows)
    corpus = read_corpus(tmp_path)
    assert corpus.name == "imagefolder" and not corpus.report.counts
    assert splits(corpus) == {
        f"{start}{name}/0.jpg": split for name, split in (("test", "test"), ("train", "train"), ("validation", "dev"))
    }
    assert captions(corpus)[f"{start}train/0.jpg"] == ("a train", "a dog")
    assert files(corpus, tmp_path) == {photo.id: photo.id for photo in corpus.photos}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_imagefolder_with_one_table_above(tmp_path, suffix):
    names = ["train/0.jpg", "train/1.jpg", "val/0.jpg", "test/0.jpg"]
    photos(tmp_path, *names)
    metadata(tmp_path / f"metadata{suffix}", [{"file_name": name, "text": f"a {name}"} for name in names])
    assert splits(read_corpus(tmp_path)) == dict(zip(names, ["train", "train", "dev", "test"], strict=True))


def test_photos_of_folders_that_number_them_anew_are_kept_apart(tmp_path):
    name = f"{7:012}.jpg"
    for split in ("train", "val"):
        photos(tmp_path / split, name)
        lines(tmp_path / split / "captions.csv", "image,caption", f"{name},a {split}")
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {f"train/{name}": ("a train",), f"val/{name}": ("a val",)}
    assert len({photo.key for photo in corpus.photos}) == 2


def test_a_photo_that_is_missing_in_its_split_is_not_taken_from_another(tmp_path):
    photos(tmp_path, "train/0.jpg", "train/1.jpg", "val/0.jpg", "val/9.jpg")
    lines(tmp_path / "train" / "metadata.csv", "file_name,text", "0.jpg,one", "1.jpg,two", "9.jpg,three")
    lines(tmp_path / "val" / "metadata.csv", "file_name,text", "0.jpg,four", "1.jpg,five")
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"train/0.jpg": ("one",), "train/1.jpg": ("two",), "val/0.jpg": ("four",)}
    assert corpus.report.counts["missing photos"] == 2


@pytest.mark.parametrize("names", [("train", "test"), ("captions_train", "captions_val"), ("Train", "valid", "TEST")])
def test_several_tables_whose_names_are_splits(tmp_path, names):
    photos(tmp_path, *NAMES)
    for name, photo in zip(names, NAMES, strict=False):
        lines(tmp_path / f"{name}.csv", "image,caption", f"{photo},a {name}")
    lines(tmp_path / "labels.csv", "image,label", "a.jpg,1")
    corpus = read_corpus(tmp_path)
    assert {caption for several in captions(corpus).values() for caption in several} == {f"a {name}" for name in names}
    assert len(set(splits(corpus).values())) == len(names)


def test_a_table_beside_those_of_splits_is_named_and_not_read_twice(tmp_path):
    photos(tmp_path, *NAMES)
    for name in ("all", "train", "test"):
        lines(tmp_path / f"{name}.csv", "image,caption", f"{NAMES[0] if name != 'test' else NAMES[1]},x")
    corpus = read_corpus(tmp_path)
    assert sum(len(photo.captions) for photo in corpus.photos) == 2
    assert "further tables are not read: all.csv" in corpus.report.notes
    (tmp_path / "train.csv").unlink()
    assert read_corpus(tmp_path).name == "table (all.csv)", "test.csv alone may be of pairs to score"


def test_tables_whose_splits_share_a_photo_are_refused(tmp_path):
    photos(tmp_path, *NAMES)
    for name in ("train", "test"):
        lines(tmp_path / f"{name}.csv", "image,caption", "a.jpg,x")
    with pytest.raises(ValueError, match="is in both"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    "columns", ["caption_1,caption_2", "caption1,caption2", "Caption 0,Caption 1", "text_0,text_1"]
)
def test_numbered_caption_columns(tmp_path, columns):
    photos(tmp_path, "a.jpg", "b.jpg")
    lines(tmp_path / "t.csv", f"image,{columns},source", "a.jpg,one,two,x", "b.jpg,three,,x")
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"a.jpg": ("one", "two"), "b.jpg": ("three",)}
    assert not corpus.report.counts, "fewer captions than columns are no mistake"
    assert [pair.caption for pair in read_pairs(tmp_path / "t.csv")[0]] == ["one", "two", "three"]


@pytest.mark.parametrize("name", ["results.csv", "captions.txt"])
@pytest.mark.parametrize("delimiter", ["| ", ",", ", "])
@pytest.mark.parametrize("place", ["", "flickr30k_images/", "archive/flickr30k_images/"])
def test_kaggles_flickr30k(tmp_path, name, delimiter, place):
    photos(tmp_path / place / "flickr30k_images", "36979.jpg", "1000092795.jpg")
    rows = [("36979.jpg", "0", "A dog ."), ("1000092795.jpg", "0", "Two men , one hat ."), ("36979.jpg", "1", "Wet .")]
    broken = f"36979.jpg{delimiter}4   A dog runs ."
    header = ("image_name", "comment_number", "comment")
    lines(tmp_path / place / name, *map(delimiter.join, (header, *rows)), broken)
    corpus = read_corpus(tmp_path)
    assert corpus.name == f"Flickr ({name})"
    assert captions(corpus) == {"36979.jpg": ("A dog .", "Wet ."), "1000092795.jpg": ("Two men , one hat .",)}
    assert {photo.key for photo in corpus.photos} == {"flickr:36979", "flickr:1000092795"}
    assert corpus.report.examples["broken lines"] == [f"{name} line 5"]


def test_captions_beside_photos(tmp_path):
    photos(tmp_path, "train/10_dog/a.png", "train/b.jpg", "test/c.webp", "test/d.jpg", "test/bare.jpg", "test/bad.jpg")
    lines(tmp_path / "train/10_dog/a.txt", "a dog", "", "two dogs")
    lines(tmp_path / "train/b.caption", "a cat")
    lines(tmp_path / "test/c.json", json.dumps({"caption": "a bird", "url": "x", "status": "success"}))
    lines(tmp_path / "test/d.txt", "the text")
    lines(tmp_path / "test/d.json", json.dumps({"caption": "not this"}))
    lines(tmp_path / "test/bad.json", "{")
    lines(tmp_path / "test/failed.json", json.dumps({"caption": "no photo", "status": "failed_to_download"}))
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {
        "train/10_dog/a.png": ("a dog", "two dogs"),
        "train/b.jpg": ("a cat",),
        "test/c.webp": ("a bird",),
        "test/d.jpg": ("the text",),
    }
    assert set(splits(corpus).values()) == {"train", "dev", "test"}, "of train one is held out"
    assert corpus.report.counts == {"broken captions": 1, "photos without captions": 2}


def test_a_caption_beside_two_photos_of_its_name_is_left_out(tmp_path):
    photos(tmp_path, "a.jpg", "a.png", "b.jpg")
    lines(tmp_path / "a.txt", "of which?")
    lines(tmp_path / "b.txt", "a dog")
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"b.jpg": ("a dog",)}
    assert corpus.report.examples["captions of several photos"] == ["a.txt: a.jpg, a.png"]


@pytest.mark.parametrize("place", ["annotations/", ""])
def test_vizwiz(tmp_path, place):
    for split, n in (("train", 3), ("val", 2), ("test", 1)):
        names = [f"VizWiz_{split}_{i:08}.jpg" for i in range(n)]
        photos(tmp_path / split, *names)
        images = [{"file_name": name, "id": i, "vizwiz_url": "x"} for i, name in enumerate(names)]
        notes = [{"caption": f"a {split}", "image_id": i, "id": i} for i in range(n)]
        notes = [note | {"is_precanned": False, "is_rejected": False} for note in notes]
        notes += [{"caption": "spam", "image_id": 0, "id": 90, "is_precanned": False, "is_rejected": True}]
        notes += [{"caption": "Quality issues", "image_id": 0, "id": 91, "is_precanned": True, "is_rejected": False}]
        content = {"info": {}, "images": images} | ({"annotations": notes} if split != "test" else {})
        lines(tmp_path / place / f"{split}.json", json.dumps(content))
    corpus = read_corpus(tmp_path)
    assert corpus.name == "VizWiz"
    assert sorted(splits(corpus).values()) == ["dev", "dev", "train", "train", "train"]
    assert set(captions(corpus).values()) == {("a train",), ("a val",)}
    assert corpus.report.counts == {"rejected captions": 2, "canned captions": 2, "photos without captions": 1}


# Broken entries


def coco(folder, images, annotations):
    photos(folder / "train2017", *NAMES)
    content = {"images": images, "annotations": annotations}
    lines(folder / "annotations" / "captions_train2017.json", json.dumps(content))
    return read_corpus(folder)


@pytest.mark.parametrize(
    "broken", [{"id": 9, "image_id": 1}, {"caption": "x"}, None, 3, [], {"image_id": 1, "caption": 2}]
)
def test_a_broken_annotation_of_coco_is_counted(tmp_path, broken):
    images = [{"id": i, "file_name": name} for i, name in enumerate(NAMES)]
    notes = [{"id": i, "image_id": i, "caption": f"a dog {i}"} for i in range(6)]
    corpus = coco(tmp_path, images, [*notes[:2], broken, *notes[2:]])
    assert len(corpus.photos) == 6
    assert corpus.report.examples["broken entries"] == ["captions_train2017.json annotation 2"]


@pytest.mark.parametrize("broken", [{"id": 9}, {"file_name": "x"}, None, 3, [], {"id": [1], "file_name": "x"}])
def test_a_broken_image_of_coco_is_counted(tmp_path, broken):
    images = [broken, *({"id": i, "file_name": name} for i, name in enumerate(NAMES))]
    corpus = coco(tmp_path, images, [{"id": i, "image_id": i, "caption": f"a dog {i}"} for i in range(6)])
    assert len(corpus.photos) == 6
    assert corpus.report.examples["broken entries"] == ["captions_train2017.json image 0"]


def test_an_id_of_coco_that_two_photos_have_stands_for_neither(tmp_path):
    images = [{"id": i % 5, "file_name": name} for i, name in enumerate(NAMES)]
    corpus = coco(tmp_path, images, [{"id": i, "image_id": i, "caption": f"a dog {i}"} for i in range(5)])
    assert captions(corpus) == {name: (f"a dog {i}",) for i, name in enumerate(NAMES) if 0 < i < 5}
    assert corpus.report.counts["captions of an id that two photos have"] == 1


def test_ids_of_coco_may_be_written_as_text_in_one_list_and_as_numbers_in_the_other(tmp_path):
    images = [{"id": i, "file_name": name} for i, name in enumerate(NAMES)]
    corpus = coco(tmp_path, images, [{"id": i, "image_id": str(i), "caption": f"a dog {i}"} for i in range(6)])
    assert captions(corpus) == {name: (f"a dog {i}",) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("name", ["captions.json", "annotations/val_captions.json", "_annotations.coco.json"])
def test_files_of_cocos_layout_with_other_names(tmp_path, name):
    photos(tmp_path / "images", *NAMES)
    images = [{"id": i, "file_name": photo} for i, photo in enumerate(NAMES)]
    notes = [{"image_id": i, "caption": f"a dog {i}"} for i in range(6)]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(json.dumps({"images": images, "annotations": notes}))
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {photo: (f"a dog {i}",) for i, photo in enumerate(NAMES)}
    assert ({photo.split for photo in corpus.photos} == {"dev"}) == ("val" in name)


def test_two_columns_of_one_name_are_both_read(tmp_path):
    photos(tmp_path, "a.jpg")
    lines(tmp_path / "t.csv", "image,caption,caption", "a.jpg,one,two")
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("one", "two")}


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "captions.txt", "Flickr8k.token.txt"])
def test_a_line_that_is_no_utf8_is_counted(tmp_path, name):
    photos(tmp_path / "images", *NAMES)
    row = {
        "t.csv": "{},{}",
        "t.jsonl": '{{"image": "{}", "caption": "{}"}}',
        "captions.txt": "{},{}",
        "Flickr8k.token.txt": "{}#0\t{}",
    }[name]
    lines = [row.format(photo, f"a dog {i}") for i in range(3) for photo in NAMES[1:]] if "token" not in name else []
    lines = lines or [row.format(photo, "a dog") for photo in NAMES[1:]] + [
        row.format(f"{i}.jpg", "x") for i in range(9)
    ]
    header = ["image,caption"] if name in ("t.csv", "captions.txt") else []
    content = "\n".join([*header, *lines]).encode() + b"\n" + row.format("a.jpg", "caf\xe9").encode("latin-1") + b"\n"
    (tmp_path / name).write_bytes(content)
    corpus = read_corpus(tmp_path)
    assert corpus.report.counts["captions that are no Unicode"] == 1
    assert len(corpus.photos) == 5


def test_the_first_row_of_a_jsonl_table_may_be_the_broken_one(tmp_path):
    photos(tmp_path, *NAMES)
    rows = [{"image": "a.jpg"}, {"image": "b.jpg", "caption": "one"}]
    lines(tmp_path / "t.jsonl", *map(json.dumps, rows))
    assert captions(read_corpus(tmp_path)) == {"b.jpg": ("one",)}


# How tables are written


def rows_of(delimiter, quote):
    rows = [(name, f'a dog {i}, wet{delimiter.strip()} "big" \'') for i, name in enumerate(NAMES)]
    escape = (lambda cell: '"' + cell.replace('"', '""') + '"') if quote else (lambda cell: cell.replace(delimiter, ""))
    return [f"{name}{delimiter}{escape(caption)}" for name, caption in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.TSV", "captions.txt"])
def test_delimiter_and_encoding_are_found_out(tmp_path, delimiter, encoding, name):
    photos(tmp_path / "images", *NAMES)
    quoted = name != "captions.txt"
    rows = rows_of(delimiter, True) if quoted else [f"{photo}{delimiter}a dög" for photo in NAMES]
    lines(tmp_path / name, delimiter.join(("image", "caption")), *rows, encoding=encoding)
    corpus = read_corpus(tmp_path)
    expected = [f'a dog {i}, wet{delimiter.strip()} "big" \'' if quoted else "a dög" for i in range(6)]
    assert [captions(corpus)[photo][0] for photo in NAMES] == expected
    assert not corpus.report.counts


@pytest.mark.parametrize("first", ["", "sep=;\n", "\n\n", "SEP=;\n"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_what_may_stand_before_the_header_and_at_the_ends_of_lines(tmp_path, first, line_end):
    photos(tmp_path, *NAMES)
    text = first.replace("\n", line_end) + line_end.join(["image;caption", "a.jpg;one", "", 'b.jpg;"two"', ""])
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("one",), "b.jpg": ("two",)}


def test_a_caption_that_comes_last_may_hold_commas_of_its_own(tmp_path):
    photos(tmp_path, *NAMES)
    lines(tmp_path / "t.csv", "image, caption", "a.jpg, A dog, wet", 'b.jpg, "A cat, dry"')
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("A dog, wet",), "b.jpg": ("A cat, dry",)}


@pytest.mark.parametrize("at", [0, 2, 5])
@pytest.mark.parametrize("cell", ['"not closed', '"not closed ""at"" all', '"' + "x" * 200_000])
@pytest.mark.parametrize("others", ["{},{}", '{},"{}, wet"'])
def test_a_quotation_that_is_not_closed_is_one_broken_line(tmp_path, at, cell, others):
    photos(tmp_path, *NAMES)
    rows = [others.format(name, "a dog") for name in NAMES]
    rows[at] = f"{NAMES[at]},{cell}"
    lines(tmp_path / "t.csv", "image,caption", *rows)
    corpus = read_corpus(tmp_path)
    assert len(corpus.photos) == 5
    assert corpus.report.examples["broken lines"] == [f"t.csv line {at + 2}"]
    assert read_pairs(tmp_path / "t.csv")[1] == [f"t.csv line {at + 2}"]


# Where photos are


CAPTIONS = {  # layouts of captions for NAMES, without their photos
    "table": lambda folder: lines(folder / "t.csv", "image,caption", *(f"{name},x" for name in NAMES)),
    "imagefolder": lambda folder: lines(folder / "metadata.csv", "file_name,text", *(f"{name},x" for name in NAMES)),
    "token file": lambda folder: lines(folder / "F.token.txt", *(f"{name}#0\tx" for name in NAMES)),
    "Kaggle": lambda folder: lines(folder / "captions.txt", "image,caption", *(f"{name},x" for name in NAMES)),
    "Karpathy": lambda folder: lines(
        folder / "dataset_x.json",
        json.dumps({"images": [{"filename": n, "split": "train", "sentences": [{"raw": "x"}]} for n in NAMES]}),
    ),
    "COCO": lambda folder: lines(
        folder / "annotations" / "captions_train.json",
        json.dumps(
            {
                "images": [{"id": n, "file_name": n} for n in NAMES],
                "annotations": [{"image_id": n, "caption": "x"} for n in NAMES],
            }
        ),
    ),
}


@pytest.mark.parametrize("layout", CAPTIONS)
@pytest.mark.parametrize("place", ["", "images", "images/train2017", "Flickr8k_Dataset/Flicker8k_Dataset", "x/y"])
def test_photos_lie_deeper(tmp_path, layout, place):
    CAPTIONS[layout](tmp_path)
    photos(tmp_path / place, *NAMES)
    assert files(read_corpus(tmp_path), tmp_path / place) == {name: name for name in NAMES}


@pytest.mark.parametrize("layout", CAPTIONS)
def test_photos_lie_elsewhere(tmp_path, layout):
    CAPTIONS[layout](tmp_path / "captions")
    photos(tmp_path / "elsewhere" / "deep", *NAMES)
    with pytest.raises(ValueError, match=r"photos were looked for in .*captions"):
        read_corpus(tmp_path / "captions")
    corpus = read_corpora([tmp_path / "captions"], [tmp_path / "elsewhere"])
    assert files(corpus, tmp_path / "elsewhere" / "deep") == {name: name for name in NAMES}
    with pytest.raises(ValueError, match=r"absent: no such folder of photos"):
        read_corpus(tmp_path / "captions", [tmp_path / "absent"])


@pytest.mark.parametrize("layout", CAPTIONS)
def test_captions_lie_deeper_beside_the_photos(tmp_path, layout):
    CAPTIONS[layout](tmp_path / "Flickr8k_text")
    photos(tmp_path / "Flickr8k_Dataset" / "Flicker8k_Dataset", *NAMES)
    assert len(read_corpus(tmp_path).photos) == 6


def test_several_data_sets_in_a_folder_are_not_taken_for_one(tmp_path):
    for name in ("one", "two"):
        CAPTIONS["Karpathy"](tmp_path / name)
    with pytest.raises(ValueError, match=r"several data sets \(one, two\)"):
        read_corpus(tmp_path)


SPELT = {
    "backslashes": ("img\\é.jpg", "img/é.jpg"),
    "another case of the ending": ("img/é.jpg", "img/é.JPG"),
    "decomposed on disk": ("img/é.jpg", unicodedata.normalize("NFD", "img/é.jpg")),
    "decomposed in the table": (unicodedata.normalize("NFD", "é.jpg"), "é.jpg"),
    "a decomposed folder": ("사진/a.jpg", unicodedata.normalize("NFD", "사진/a.jpg")),
    "a path of Windows": ("C:\\Users\\me\\img\\é.jpg", "x/img/é.jpg"),
    "a path of another machine": ("/home/me/img/é.jpg", "img/é.JPG"),
    "by name alone": ("é.jpg", "x/y/é.jpg"),
    "a folder with a dot": ("V.2/é.jpg", "x/V.2/é.JPG"),
    "as it is, with a backslash": ("a\\b.jpg", "a\\b.jpg"),
}


@pytest.mark.parametrize("how", SPELT)
def test_a_photo_is_found_however_it_is_written(tmp_path, how):
    written, on_disk = SPELT[how]
    if "decomposed" in how:
        photos(tmp_path / "probe", unicodedata.normalize("NFD", "é"))
    photos(tmp_path, on_disk, "other.jpg")
    lines(tmp_path / "t.csv", "image,caption", f"{written},one", "other.jpg,two")
    corpus = read_corpus(tmp_path)
    assert files(corpus, tmp_path) == {written: on_disk, "other.jpg": "other.jpg"}
    assert [pair.path for pair in read_pairs(tmp_path / "t.csv")[0]] == [tmp_path / on_disk, tmp_path / "other.jpg"]


def test_a_name_that_fits_two_photos_is_named_and_stands_for_neither(tmp_path):
    photos(tmp_path, "x/a.jpg", "y/a.jpg", "y/b.jpg", "c.jpg", "p/n/d.jpg", "q/m/d.jpg")
    lines(tmp_path / "t.csv", "image,caption", "a.jpg,one", "b.jpg,two", "c.jpg,three", "z/m/d.jpg,four")
    corpus = read_corpus(tmp_path)
    assert files(corpus, tmp_path) == {"b.jpg": "y/b.jpg", "c.jpg": "c.jpg", "z/m/d.jpg": "q/m/d.jpg"}
    assert corpus.report.examples["names that fit several photos"] == [
        f"a.jpg: {tmp_path / 'x/a.jpg'} or {tmp_path / 'y/a.jpg'}"
    ]
    (tmp_path / "x/a.jpg").write_bytes((tmp_path / "y/a.jpg").read_bytes())
    assert files(read_corpus(tmp_path), tmp_path)["a.jpg"] == "x/a.jpg", "copies of one photo"


def test_of_two_photos_the_one_in_a_folder_of_the_split_is_taken(tmp_path):
    photos(tmp_path, "train/a.jpg", "test/a.jpg", "train2017/b.jpg", "val2017/b.jpg")
    lines(tmp_path / "t.csv", "image,caption,split", "a.jpg,one,test", "b.jpg,two,val")
    assert files(read_corpus(tmp_path), tmp_path) == {"a.jpg": "test/a.jpg", "b.jpg": "val2017/b.jpg"}


def test_two_names_are_never_one_photo_by_name_alone(tmp_path):
    photos(tmp_path, "x/1.jpg", "y/2.jpg", "3.jpg")
    lines(tmp_path / "t.csv", "image,caption", "p/1.jpg,one", "q/1.jpg,two", "y/2.jpg,three", "z/2.jpg,four", "3.jpg,x")
    corpus = read_corpus(tmp_path)
    assert captions(corpus) == {"y/2.jpg": ("three",), "3.jpg": ("x",)}
    assert corpus.report.counts["missing photos"] == corpus.report.counts["captions of absent photos"] == 3


PATHS = st.lists(st.sampled_from([f"{a}{b}{c}" for a in ("", "x/", "y/") for b in "ab" for c in (".jpg", ".JPG")]))


@given(PATHS.filter(bool), PATHS.filter(bool))
def test_no_two_different_names_share_a_photo(tmp_path_factory, named, there):
    folder = tmp_path_factory.mktemp("data")
    photos(folder, *there)
    lines(folder / "t.csv", "image,caption", *(f"{name},{name}" for name in named))
    try:
        corpus = read_corpus(folder)
    except ValueError as error:
        assert "no photo with a caption is left" in str(error)
        return
    for photo in corpus.photos:
        assert len({caption.lower() for caption in photo.captions}) == 1
        assert photo.path.name.lower() == photo.id.rpartition("/")[2].lower()
        if photo.id in there:
            assert photo.path == folder / photo.id


def test_each_folder_is_listed_once_and_not_once_a_photo(tmp_path, monkeypatch):
    names = [f"{i}.jpg" for i in range(200)]
    photos(tmp_path / "x" / "y", *names)
    lines(tmp_path / "t.csv", "image,caption", *(f"{name},a dog" for name in names))
    listed, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scan(path))
    assert len(read_corpus(tmp_path).photos) == 200
    assert len(listed) < 30


# What is said


def test_what_is_not_recognised_is_listed(tmp_path):
    photos(tmp_path, "pictures/a.jpg")
    lines(tmp_path / "tables" / "labels.csv", "photo;label", "a.jpg;1")
    lines(tmp_path / "notes.jsonl", '{"url": "x", "text": "a dog"}')
    with pytest.raises(ValueError, match="no data set is recognised") as error:
        read_corpus(tmp_path)
    message = str(error.value)
    assert "tables/labels.csv has the columns photo, label" in message
    assert "notes.jsonl has the columns url, text" in message
    assert "searched: ., pictures, tables" in message and "\n" not in message


def test_one_folder_where_several_are_meant(tmp_path):
    photos(tmp_path / "images", *NAMES)
    lines(tmp_path / "data" / "t.csv", "image,caption", "a.jpg,one")
    corpus = read_corpora(str(tmp_path / "data"), str(tmp_path / "images"))
    assert [photo.path for photo in corpus.photos] == [tmp_path / "images" / "a.jpg"]


def test_the_shell_takes_photos_from_elsewhere(tmp_path):
    CAPTIONS["Karpathy"](tmp_path / "captions")
    photos(tmp_path / "elsewhere", *NAMES)
    small = ["--training.epochs", "1", "--training.batch", "2", "--min-count", "1", "--model.multimodal", "8"]
    command = [
        sys.executable,
        "-m",
        "mrnn",
        "train",
        "mrnn",
        "--data",
        tmp_path / "captions",
        "--out",
        tmp_path / "run",
    ]
    for more, code in (([], 1), (["--images", tmp_path / "elsewhere", "--cache", tmp_path / "cache"], 0)):
        result = subprocess.run([*map(str, (*command, *more)), *small], capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr
        assert ("photos were looked for in" in result.stderr) == bool(code)


# Those of public reports


FIELD = {
    "11": (6, 6, {"train", "test"}),
    "13/coco-missing-caption": (6, 29, {"train"}),
    "15/hf-imagefolder": (6, 30, {"train", "dev", "test"}),
    "15/hf-jsonl": (6, 6, {"train", "test"}),
    "15/table-caption-n": (6, 30, set()),
    "16/f30k-kaggle": (6, 29, set()),
    "16/f30k-kaggle2": (6, 29, set()),
    "17/pairs-folder": (6, 6, set()),
    "17/img2dataset-files": (6, 6, set()),
    "18/excel-semicolon": (6, 6, set()),
    "18/win-backslash": (6, 6, set()),
    "18/upper-CSV": (6, 6, set()),
    "18/nfd": (6, 6, set()),
    "19/coco-yolo-layout": (6, 30, {"train"}),
    "19/f8k-zips": (6, 30, {"train", "dev", "test"}),
}


@pytest.mark.parametrize("case", FIELD)
def test_a_data_set_that_was_reported(data, case):
    folder = data.parent / "field" / case
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    corpus = read_corpus(folder)
    n, sentences, given_splits = FIELD[case]
    assert len(corpus.photos) == n
    assert sum(len(photo.captions) for photo in corpus.photos) == sentences
    assert given_splits <= set(splits(corpus).values())


# Tables whose columns are told by what they hold


@pytest.mark.parametrize(
    "row",
    [
        "{name},a dog {i}",
        '{i},images/{name},"a dog, {i}"',
        "{name}\ta dog, {i}",
        "{name}#0\ta dog {i}",
        "a dog {i};{name}",
        "{name}|a dog {i}|a wet dog|train",
        "{name},a dog {i}{more}",
        "{name},ภาษาไทยสวย {i}",
    ],
)
@pytest.mark.parametrize("file", ["t.csv", "captions.txt"])
def test_a_table_without_a_header(tmp_path, row, file):
    photos(tmp_path / "images", *NAMES)
    lines(tmp_path / file, *(row.format(name=name, i=i, more=", wet" * (i % 2)) for i, name in enumerate(NAMES)))
    corpus = read_corpus(tmp_path)
    assert {photo.path.name for photo in corpus.photos} == set(NAMES)
    assert all(len(photo.captions) == row.count("dog") or "ท" in row for photo in corpus.photos)
    assert not corpus.report.counts
    assert len(read_pairs(tmp_path / file)[0]) == 6 * max(row.count("dog"), 1)


@pytest.mark.parametrize("rows", [["a.jpg", "b.jpg"], ["a.jpg,0", "b.jpg,1"], ["a.jpg,cat", "b.jpg,dog"]])
def test_lists_and_labels_of_photos_are_no_captions(tmp_path, rows):
    photos(tmp_path, *NAMES)
    lines(tmp_path / "t.csv", *rows)
    with pytest.raises(ValueError, match="no data set is recognised"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    "header", ["id,blip_caption", "Image Name,Caption Text", "picture,caption", "img_id,caption_en", "filename,raw"]
)
def test_columns_with_other_names(tmp_path, header):
    photos(tmp_path, *NAMES)
    lines(tmp_path / "t.csv", f"n,{header}", *(f"{i},{name},a dog {i}" for i, name in enumerate(NAMES)))
    assert captions(read_corpus(tmp_path)) == {name: (f"a dog {i}",) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    "cell", ['["one two", "it\'s three"]', "['one two', \"it's three\"]", "['one two' \"it's three\"]"]
)
def test_a_list_of_captions_written_out_in_a_cell(tmp_path, cell):
    photos(tmp_path, "a.jpg", "b.jpg")
    quoted = '"' + cell.replace('"', '""') + '"'
    lines(tmp_path / "t.csv", "raw,filename", f"{quoted},a.jpg", '"[laughs] [no, list]",b.jpg')
    assert captions(read_corpus(tmp_path)) == {"a.jpg": ("one two", "it's three"), "b.jpg": ("[laughs] [no, list]",)}


RECORDS = [{"image": name, "caption": f"a dog {i}"} for i, name in enumerate(NAMES)]
ARRANGED = {
    "records": RECORDS,
    "under a name": {"version": 1, "data": RECORDS},
    "pairs": [[row["image"], row["caption"]] for row in RECORDS],
    "by photo": {row["image"]: row["caption"] for row in RECORDS},
    "lists by photo": {row["image"]: [row["caption"]] for row in RECORDS},
    "records by photo": {row["image"]: {"captions": [row["caption"]], "n": 1} for row in RECORDS},
    "columns": {name: {str(i): row[name] for i, row in enumerate(RECORDS)} for name in ("image", "caption")},
    "lists of columns": {name: [row[name] for row in RECORDS] for name in ("image", "caption")},
    "captions as records": [{"photo": row["image"], "captions": [{"raw": row["caption"]}]} for row in RECORDS],
    "without endings": [{"image_id": row["image"][:-4], "caption": row["caption"]} for row in RECORDS],
}


@pytest.mark.parametrize("how", ARRANGED)
def test_a_json_file_of_captions(tmp_path, how):
    photos(tmp_path / "images", *NAMES)
    (tmp_path / "data.json").write_text(json.dumps(ARRANGED[how]))
    corpus = read_corpus(tmp_path)
    assert {p.path.name: p.captions for p in corpus.photos} == {r["image"]: (r["caption"],) for r in RECORDS}
    assert len(read_pairs(tmp_path / "data.json")[0]) == 6


def test_a_json_file_counts_what_is_broken(tmp_path):
    photos(tmp_path, *NAMES)
    rows = [*RECORDS, 3, None, {"image": 3, "caption": "x"}, {"image": "a.jpg"}, {"image": "a.jpg", "caption": [7]}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    corpus = read_corpus(tmp_path)
    assert corpus.report.counts == {"broken lines": 5}
    assert {photo.split for photo in corpus.photos} == {"train", "dev"}


def test_a_name_without_its_ending_that_fits_two_photos_stands_for_neither(tmp_path):
    photos(tmp_path, "a.jpg", "a.png", "b.jpg")
    lines(tmp_path / "t.csv", "image,caption", "a,one", "b,two")
    assert files(read_corpus(tmp_path), tmp_path) == {"b": "b.jpg"}
