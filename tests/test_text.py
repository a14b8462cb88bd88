import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrnn.text import END, SIGNS, START, UNKNOWN, Vocabulary, detokenise, tokenise

TRICKY = "aAsStTmMdDrRvVeElL''\u2019\u02bc -.,_0١²½ﬁßİıΣςée\u0301\u0308\u200d\n\t\u00a0"
TRICKY += "中文かがカﾞ\u3099\u309a々ー한ᄀ\u1161كَتَहिन्दी𠀀😀"
TRICKY += "กน้ำํๆเา๑ກນ້ຳໝကိ္ဦျខ្ម់ស\u200b\u200c\ua9e0\uaa60\uaa7b"
WORDS = ["a", "dog", "'s", "runs", "犬", "कुत्ता"]


@given(st.one_of(st.text(), st.text(alphabet=TRICKY)))
@example("か \u3099")
@example("中\u0301文")
@example("x\u3099 か")
@example("dog's's 'S ' s")
@example("ﾊ ﾟ")
@example("ក្ ខ")
@example("ก ้ ์ abc้ ก's้")
@example("กํ า")
@example("ဥ ီ")
def test_detokenised_tokens_give_the_same_tokens(text):
    tokens = tokenise(text)
    assert tokenise(detokenise(tokens)) == tokens
    assert all(token and token.split() == [token] for token in tokens)


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A child in a pink dress .", "a child in a pink dress"),
        ("", ""),
        (" \t\n ", ""),
        ("!?... -- __ ;", ""),
        ("A tri-colored dog", "a tri colored dog"),
        ("the dog's ball", "the dog 's ball"),
        ("the dog 's ball", "the dog 's ball"),
        ("THE DOG’S BALL", "the dog 's ball"),
        ("they're, we've; he'd I'll I'm", "they 're we 've he 'd i 'll i 'm"),
        ("rock'n'roll at two o'clock", "rock'n'roll at two o'clock"),
        ("the dogs' ball", "the dogs ball"),
        ("2 men, 10.5 km", "2 men 10 5 km"),
        ("snake_case", "snake case"),
        ("Ein Mädchen läuft über die Straße", "ein mädchen läuft über die straße"),
        ("cafe\u0301", "caf\u00e9"),
        ("ﬁsh ｆｕｌｌ", "fish full"),
        ("두 남자가 서 있다.", "두 남자가 서 있다"),
        ("كَلْبٌ يَجْرِي", "كَلْبٌ يَجْرِي"),
        ("एक कुत्ता दौड़ रहा है।", "एक कुत्ता दौड़ रहा है"),
        ("两只狗在跑。", "两 只 狗 在 跑"),
        ("犬が走っている", "犬 が 走 っ て い る"),
        ("ジョン・スミス", "ジ ョ ン ス ミ ス"),
        ("時々dog", "時 々 dog"),
        ("か\u3099", "が"),
        ("2匹のdog", "2 匹 の dog"),
        ("Собака бежит", "собака бежит"),
        ("a dog 😀 runs", "a dog runs"),
        ("می\u200cخواهم بروم", "می\u200cخواهم بروم"),
        ("क्\u200dष", "क्\u200dष"),
        ("ශ්\u200dරී ලංකා", "ශ්\u200dරී ලංකා"),
        ("\u200ddog\u200c \u200d 👩\u200d👩\u200d👧 cat", "dog cat"),
        ("Häus\u00adchen", "häuschen"),
        ("สุนัขวิ่ง", "สุ นั ข วิ่ ง"),
        ("หมา 2 ตัว", "ห ม า 2 ตั ว"),
        ("หมา๒ตัวdog", "ห ม า ๒ ตั ว dog"),
        ("ໝາແລ່ນ", "ໝ າ ແ ລ່ ນ"),
        ("ខ្មែរ", "ខ្មែ រ"),
        ("ခွေးတက္ကသိုလ်", "ခွေး တ က္က သို လ်"),
        ("ข้าว\u200bผัด", "ข้ า ว ผั ด"),
        ("น้ำดำ", "น้ำ ดำ"),
        ("ຄຳ", "ຄຳ"),
    ],
)
def test_tokens(caption, tokens):
    assert tokenise(caption) == unicodedata.normalize("NFC", tokens).split()


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["a", "dog", "'s", "ball"], "a dog's ball"),
        (["两", "只", "狗"], "两只狗"),
        (["2", "匹", "の", "dog"], "2 匹の dog"),
        ([], ""),
    ],
)
def test_detokenise(tokens, text):
    assert detokenise(tokens) == text


SENTENCES = {
    "Thai": "สุนัขสีดำวิ่งบนหญ้าใกล้น้ำ",
    "Lao": "ໝາດຳແລ່ນເທິງຫຍ້າ",
    "Khmer": "ឆ្កែខ្មៅរត់លើស្មៅ",
    "Burmese": "ခွေးနက်တစ်ကောင်ပြေးနေသည်",
}


@pytest.mark.parametrize("script", SENTENCES)
def test_scripts_without_spaces_are_learnable_units_and_join_back(script):
    tokens = tokenise(SENTENCES[script])
    assert len(tokens) >= 6
    assert "".join(tokens) == detokenise(tokens) == SENTENCES[script]
    assert not any(unicodedata.category(token[0]).startswith("M") for token in tokens), "no mark without its letter"
    assert set(tokens) <= set(Vocabulary.build([tokens] * 5).tokens)


@given(st.lists(st.sampled_from([t for s in SENTENCES.values() for t in tokenise(s)] + ["犬", "dog", "๒"])))
def test_any_order_of_learnt_tokens_is_a_sentence_with_these_tokens(tokens):
    assert tokenise(detokenise(tokens)) == tokens


def test_captions_of_thai_are_learnt(data):
    path = data.parent / "field" / "20" / "captions.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    captions = [line.partition(",")[2] for line in path.read_text().splitlines()[1:]]
    vocabulary = Vocabulary.build(map(tokenise, captions))
    assert len(vocabulary) > 20
    assert all(detokenise(tokenise(caption)) == caption for caption in captions)


def test_precomposed_and_combining_accents_are_one_word():
    assert tokenise("caf\u00e9") == tokenise("cafe\u0301")


@given(st.lists(st.sampled_from(WORDS)))
def test_encode_and_decode_give_the_tokens_back(tokens):
    vocabulary = Vocabulary([*SIGNS, *WORDS])
    assert vocabulary.decode(vocabulary.encode(tokens)) == tokens


def test_words_not_known_become_the_unknown_sign():
    vocabulary = Vocabulary([*SIGNS, "a"])
    assert vocabulary.encode(["a", "zebra"]) == [3, vocabulary.unknown]
    assert vocabulary.decode([3, vocabulary.unknown]) == ["a", UNKNOWN]


def test_decode_drops_the_start_and_stops_at_the_first_end():
    vocabulary = Vocabulary(["a", END, "b", START, UNKNOWN])
    assert vocabulary.decode([3, 0, 2, 1, 0, 1]) == ["a", "b"]


def test_build_orders_by_count_then_alphabet_and_drops_rare_words():
    captions = [["b", "a", "c"], ["c", "b", "a"], ["c", "rare"]]
    assert Vocabulary.build(captions, min_count=2).tokens == (*SIGNS, "c", "a", "b")
    assert Vocabulary.build(reversed(captions), min_count=2) == Vocabulary.build(captions, min_count=2)


@pytest.mark.parametrize("captions", [[], [[]], [["a"], ["b"]]])
def test_build_refuses_to_know_no_word(captions):
    with pytest.raises(ValueError, match="no word occurs 2 times"):
        Vocabulary.build(captions, min_count=2)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([], "lacks the sign"),
        ([END, UNKNOWN, "a"], f"lacks the sign {START}"),
        ([START, UNKNOWN, "a"], f"lacks the sign {END}"),
        ([START, END, "a"], f"lacks the sign {UNKNOWN}"),
        ([*SIGNS, "a", "b", "a"], "'a' more than once"),
        ([*SIGNS, START], "more than once"),
        ([*SIGNS, ""], "not one word"),
        ([*SIGNS, "two words"], "not one word"),
        ([*SIGNS, " a"], "not one word"),
        ([*SIGNS, "a\u2028"], "not one word"),
        ([*SIGNS, "a\nb"], "not one word"),
    ],
)
def test_a_malformed_vocabulary_is_refused(tokens, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        Vocabulary(tokens)
    if not any("\n" in token for token in tokens):
        path = tmp_path / "vocabulary.txt"
        path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        with pytest.raises(ValueError, match=r"vocabulary\.txt: "):
            Vocabulary.load(path)


@given(st.sets(st.text(alphabet=TRICKY, min_size=1).map(tokenise).filter(bool).map(lambda tokens: tokens[0])))
@settings(max_examples=40)
def test_a_saved_vocabulary_loads_the_same(tmp_path_factory, words):
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.txt"
    vocabulary = Vocabulary([*SIGNS, *sorted(words)])
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary


def test_equality_length_and_membership():
    vocabulary = Vocabulary([*SIGNS, "a"])
    assert vocabulary == Vocabulary([*SIGNS, "a"])
    assert vocabulary != Vocabulary([*SIGNS, "b"])
    assert vocabulary != [*SIGNS, "a"]
    assert len(vocabulary) == 4
    assert "a" in vocabulary
    assert "b" not in vocabulary


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_token(tmp_path, line_end):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(b"\xef\xbb\xbf" + line_end.join([*SIGNS, "a", ""]).encode())
    assert Vocabulary.load(path).tokens == (*SIGNS, "a")


def test_a_vocabulary_file_that_is_not_utf8_is_refused_by_line(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes("\n".join([*SIGNS, "dog", "café", ""]).encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 5 is not UTF-8") as caught:
        Vocabulary.load(path)
    assert str(caught.value).count("vocabulary.txt") == 1
