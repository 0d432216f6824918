import csv
import json
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from seer.data.storage.index import Manifest, index_path, read_index
from seer.errors import InputError
from shards.archives import columns, zips
from shards.build import BuildOptions, build
from shards.records import quarantine
from shards.sources import samples
from shards.sources.lists import parse_columns
from shards.sources.scan import scan
from shards.verify import verify
from tests.kit.pictures import encoded

ROWS = [
    {
        "URL": f"http://example.org/{i}.jpg",
        "TEXT": f"caption, “{i}”\nof two lines",
        "LICENSE": "CC-BY",
        "width": i,
    }
    for i in range(7)
]


def write(path, rows=ROWS):
    """The same rows in the format that the suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".tsv":
        lines = [
            list(rows[0]),
            *([str(value).replace("\n", " ") for value in row.values()] for row in rows),
        ]
        path.write_text("".join("\t".join(line) + "\r\n" for line in lines))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        path.write_text("# a comment\n" + "".join(f"  {row['URL']}\r\n\n" for row in rows))
    return path


def listed(*paths, **options):
    listing = scan([str(path) for path in paths], **options)
    return listing, listing.rows(np.arange(len(listing)))


def members(row):
    return {suffix: data.decode() for suffix, data in row["members"]}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl", "txt"])
def test_every_format_says_the_same(tmp_path, suffix):
    _, rows = listed(
        write(tmp_path / f"laion.{suffix}"), columns={"width": "width"} if suffix != "txt" else {}
    )
    assert [row["name"].decode() for row in rows] == [row["URL"] for row in ROWS]
    assert [row["key"] for row in rows] == [f"laion/{i:09}" for i in range(7)]
    for row, original in zip(rows, ROWS, strict=True):
        found = members(row)
        told = json.loads(found.pop("json"))
        if suffix == "txt":
            assert (found, told) == ({}, {"url": original["URL"]})
            continue
        assert found == {"txt": original["TEXT"].replace("\n", " " if suffix == "tsv" else "\n")}
        width = original["width"] if suffix in ("parquet", "jsonl") else str(original["width"])
        assert told == {"url": original["URL"], "licence": "CC-BY", "width": width}


def test_columns_are_chosen_by_name(tmp_path):
    path = write(
        tmp_path / "x.parquet", [{"a": "u1", "b": "k.1", "c": "cap", "url": "other", "n": None}] * 1
    )
    _, rows = listed(path, columns=parse_columns("url=a, key=b,caption=c,note=n,licence="))
    assert (rows[0]["name"], rows[0]["key"]) == (b"u1", "k_1")
    assert members(rows[0]) == {"txt": "cap", "json": '{"url": "u1", "note": null}'}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("url=URI", r"has no column 'URI' \(did you mean 'URL'\?\)"),
        ("URL", "'URL' is not NAME=COLUMN"),
        ("=URL", "'' is not NAME=COLUMN"),
        ("url=", "neither URLs nor images .columns: URL, TEXT, LICENSE, width"),
        ("key=LICENSE", r"keys repeat in x\.csv; .* --columns key="),
    ],
)
def test_bad_columns_are_one_line(tmp_path, columns, message):
    path = write(tmp_path / "x.csv")
    with pytest.raises(InputError, match=message) as raised:
        scan([str(path)], columns=parse_columns(columns))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"no parquet", "cannot be read as a list"),
        (
            "x.csv",
            b"url,caption\nhttp://x,1\nhttp://y,1,2,3\n",
            "line 3 has 4 columns and the first line 2;",
        ),
        ("x.jsonl", b'{"url": "http://x"}\n{"url": \n', "line 2 is no JSON object"),
        ("x.jsonl", b"[1, 2]\n", "line 1 is no JSON object"),
        ("x.csv", b"", "is empty"),
        ("x.txt", b"\n\n", "is empty"),
    ],
)
def test_bad_lists_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        scan([str(tmp_path / name)])
    assert "\n" not in str(raised.value)


def test_labels_are_numbers_or_names(tmp_path):
    rows = [
        {"url": f"http://x/{i}", "label": label}
        for i, label in enumerate(["dog", "cat", None, "dog"])
    ]
    named, found = listed(write(tmp_path / "named.parquet", rows))
    assert named.classes == ["cat", "dog"]
    assert [row["class"] for row in found] == ["dog", "cat", None, "dog"]
    numbers = write(
        tmp_path / "numbers.parquet", [{"url": f"http://x/{i}", "cls": i} for i in range(3)]
    )
    numbered, found = listed(numbers)
    assert numbered.classes is None
    assert [members(row)["cls"] for row in found] == ["0", "1", "2"]
    with pytest.raises(InputError, match="classes by name would mix"):
        scan([str(tmp_path / "named.parquet"), str(numbers)])


def test_class_names_that_hugging_face_notes(tmp_path):
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    note = json.dumps({"info": {"features": features}})
    images = [{"bytes": encoded(i), "path": None} for i in range(4)]
    table = pa.table({"image": images, "label": [1, 0, -1, None]}).replace_schema_metadata(
        {"huggingface": note}
    )
    pq.write_table(table, tmp_path / "train.parquet")
    listing, rows = listed(tmp_path / "train.parquet")
    assert listing.classes == ["cat", "dog"]
    assert [row["class"] for row in rows] == ["dog", "cat", None, None]
    pq.write_table(table.replace_schema_metadata({"huggingface": "?"}), tmp_path / "plain.parquet")
    listing, rows = listed(tmp_path / "plain.parquet")
    assert listing.classes is None
    assert [members(row).get("cls") for row in rows] == ["1", "0", None, None]


def test_keys_stay_apart_whatever_lists_are_called(tmp_path, folder):
    (tmp_path / "other").mkdir()
    lists = [write(tmp_path / "x.csv"), write(tmp_path / "other" / "x.txt")]
    root = folder({"x~2/000000001.jpg": encoded(0)})
    _, rows = listed(*lists, root)
    keys = [row["key"] for row in rows]
    assert len(set(keys)) == len(keys) == 15
    assert keys[0] == "x~2/000000001"
    assert (keys[1], keys[8]) == ("x/000000000", "x~3/000000000")
    keyed = write(tmp_path / "k.jsonl", [{"url": "http://x", "key": "x~2/000000001"}])
    with pytest.raises(InputError, match="keys of lists repeat those of files"):
        scan([str(keyed), str(root)])


def test_a_block_is_drawn_from_all_of_it_in_its_own_order(tmp_path, photos, monkeypatch):
    monkeypatch.setattr("shards.sources.formats.ROWS_PER_BATCH", 4)  # several batches
    many = [{"url": f"http://x/{i}"} for i in range(30)]
    paths = [photos, write(tmp_path / "a.jsonl", many), write(tmp_path / "b.parquet", many)]
    listing, rows = listed(*paths)
    assert len(listing) == 80
    order = listing.order(shuffle=True)
    assert sorted(order) == list(range(80))
    assert order.tolist() != list(range(80))
    assert listing.rows(order[17:60]) == [rows[i] for i in order[17:60]]
    assert listing.order(shuffle=False).tolist() == list(range(80))
    before = listing.fingerprint
    write(paths[1], [*many[:-1], {"url": "http://x/30"}])
    assert scan([str(path) for path in paths]).fingerprint != before


def test_millions_of_rows_are_no_python_objects(tmp_path):
    import tracemalloc

    count = 3_000_000
    urls = pa.repeat(pa.scalar("http://example.org/a/path/of/usual/length/image.jpg"), 100_000)
    with pq.ParquetWriter(tmp_path / "big.parquet", pa.schema([("url", pa.string())])) as writer:
        for _ in range(count // len(urls)):
            writer.write_table(pa.table({"url": urls}))
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    listing = scan([str(tmp_path / "big.parquet")], skip=tmp_path / "out")
    rows = listing.rows(np.array([0, count - 1, 12_345]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["key"] for row in rows] == ["big/000000000", "big/002999999", "big/000012345"]
    assert peak < 20 << 20
    assert pa.total_allocated_bytes() - arrow < 20 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["big.parquet"]


def of(out):
    """`{source: (index row, sample as webdataset reads it)}`"""
    found = {}
    for shard in Manifest.load(out).shards:
        rows = read_index(index_path(out / shard)).to_pylist()
        read = webdataset.WebDataset(str(out / shard), shardshuffle=False)
        for row, sample in zip(rows, read, strict=True):
            assert row["key"] == sample["__key__"]
            found[row["source"]] = row, sample
    return found


@pytest.mark.parametrize("form", ["binary", "struct"])
def test_images_in_parquet(tmp_path, form):
    images = [*(encoded(i) for i in range(19)), None, b"no image"]
    if form == "struct":
        images = [{"bytes": image, "path": None} for image in images]
    table = pa.table(
        {
            "image": images,
            "label": [i % 3 for i in range(21)],
            "text": [f"caption {i}" for i in range(21)],
        }
    )
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    out = tmp_path / "out"
    report = build([tmp_path / "train.parquet"], out, BuildOptions(workers=1, shard_size=8))
    assert (report.samples, report.classes) == (19, ["0", "1", "2"])
    assert {(e["source"], e["reason"]) for e in quarantine.read(out)} == {
        ("train.parquet/19", "no image in the row"),
        ("train.parquet/20", "not an image"),
    }
    found = of(out)
    for i in range(19):
        row, sample = found[f"train.parquet/{i}"]
        assert sample["jpg"] == encoded(i)
        assert (sample["cls"], sample["txt"]) == (str(i % 3).encode(), f"caption {i}".encode())
        assert (row["label"], row["key"]) == (i % 3, f"train/{i:09}")
    assert verify(out, workers=1).ok


def test_row_groups_are_read_once(tmp_path, monkeypatch):
    """Reading one image of a row group means reading all of them, so their rows stay together when
    shuffled.
    """
    pq.write_table(
        pa.table({"jpg": [encoded(i) for i in range(64)]}), tmp_path / "x.parquet", row_group_size=8
    )
    read, inner = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda s, i, **o: read.append(i) or inner(s, i, **o)
    )
    columns._images.cache_clear()
    build([tmp_path / "x.parquet"], tmp_path / "out", BuildOptions(workers=1, shard_size=16))
    assert sorted(read) == list(range(8))
    assert read != sorted(read)


def test_images_with_urls_keep_both(tmp_path):
    """As img2dataset's Parquet output has it."""
    rows = [
        {"url": f"http://x/{i}", "jpg": encoded(i), "key": f"{i:05}", "caption": None}
        for i in range(5)
    ]
    path = write(tmp_path / "00000.parquet", rows)
    build([path], tmp_path / "out", BuildOptions(workers=2, shard_size=8))
    found = of(tmp_path / "out")
    assert found.keys() == {row["url"] for row in rows}
    for row in rows:
        assert found[row["url"]][1]["jpg"] == row["jpg"]
        assert json.loads(found[row["url"]][1]["json"]) == {"url": row["url"]}
        assert found[row["url"]][0]["key"] == row["key"]


def pack(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zips(tmp_path, method):
    files = [(f"{('dog', 'cat')[i % 2]}/{i}.jpg", encoded(i)) for i in range(10)]
    others = [
        ("cat/unnamed", encoded(20)),
        ("notes.txt", b"x"),
        ("__MACOSX/cat/0.jpg", b"x"),
        ("cat/.hidden.jpg", b"x"),
    ]
    path = pack(tmp_path / "photos.zip", [*files, *others, ("cat/bad.jpg", b"")], method)
    out = tmp_path / "out"
    report = build([path], out, BuildOptions(workers=1, shard_size=4, labels=True))
    assert (report.samples, report.classes, report.ignored) == (11, ["cat", "dog"], {".txt": 1})
    assert report.quarantined == {"empty file": 1}
    found = of(out)
    for name, data in [*files, others[0]]:
        row, sample = found[f"photos.zip/{name}"]
        assert sample["jpg"] == data
        assert row["label"] == name.startswith("dog")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_in_folders_and_what_is_wrong_with_zips(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(samples, "MAX_BYTES", 1 << 20)
    root = folder({"x.jpg": encoded(0)})
    pack(
        root / "twice.zip",
        [("a.jpg", encoded(1)), ("a.jpg", encoded(2)), ("../../b.jpg", encoded(3))],
    )
    broken = pack(root / "broken.zip", [("c.jpg", encoded(4))], zipfile.ZIP_STORED)
    broken.write_bytes(broken.read_bytes().replace(encoded(4)[:100], bytes(100)))
    (root / "none.zip").write_bytes(b"no zip")
    pack(root / "bomb.zip", [("big.jpg", bytes((1 << 20) + 1))])
    out = tmp_path / "out"
    build([root], out, BuildOptions(workers=1, shuffle=False))
    rows = read_index(index_path(out / "shard-000000.tar")).to_pylist()
    found = [
        sample["jpg"]
        for sample in webdataset.WebDataset(str(out / "shard-000000.tar"), shardshuffle=False)
    ]
    assert [row["key"] for row in rows] == ["b", "a", "a~2", "x"]
    assert found == [encoded(i) for i in (3, 1, 2, 0)]
    assert {e["source"]: e["reason"].split(" (")[0] for e in quarantine.read(out)} == {
        "broken.zip/c.jpg": "cannot be read",
        "none.zip": "damaged zip",
        "bomb.zip/big.jpg": "file too large",
    }


def images(**columns):
    """A Parquet table of images as Hugging Face has them, with further columns."""
    count = len(next(iter(columns.values())))
    return pa.table(
        {"image": [{"bytes": encoded(i), "path": None} for i in range(count)], **columns}
    )


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("caption", [["one", "two"], ["three"], None], "list<element: string>"),
        ("text", [{"en": "a", "de": "b"}] * 3, "struct<en: string, de: string>"),
        ("label", [[1, 2], [], None], "list<element: int64>"),
    ],
)
def test_columns_that_nobody_asked_for_and_that_do_not_fit_are_left_out_and_told(
    tmp_path, name, values, kind
):
    pq.write_table(images(**{name: values}), tmp_path / "x.parquet")
    listing, rows = listed(tmp_path / "x.parquet")
    assert (len(listing), listing.classes, members(rows[0])) == (3, None, {})
    (line,) = listing.notes.lines()
    assert f"column left out of x.parquet: '{name}' holds {kind}" in line
    kept = line.split("for example --columns ")[1].split(" ")[0]  # what the line advises
    _, rows = listed(tmp_path / "x.parquet", columns=parse_columns(kept))
    assert json.loads(members(rows[0])["json"]) == {f"{name}s": values[0]}
    role = "caption" if name == "text" else name
    with pytest.raises(InputError, match=f"column '{name}' holds .* and can not be the {role}"):
        listed(tmp_path / "x.parquet", columns={role: name})


def test_the_next_usual_name_is_taken_where_the_first_does_not_fit(tmp_path):
    pq.write_table(
        images(caption=[["one"]] * 2, text=["words"] * 2, jpg=["a path"] * 2),
        tmp_path / "x.parquet",
    )
    listing, rows = listed(tmp_path / "x.parquet")
    assert members(rows[0]) == {"txt": "words"}
    assert listing.containers[0].column == "image"


def test_labels_that_are_no_number_are_no_class(tmp_path):
    pq.write_table(images(label=[0.0, float("nan"), 1.0, None, -1.0, 7e9]), tmp_path / "x.parquet")
    report = build(
        [tmp_path / "x.parquet"], tmp_path / "out", BuildOptions(workers=1, shuffle=False)
    )
    assert report.classes == ["0", "1"]
    labels = read_index(index_path(tmp_path / "out" / "shard-000000.tar"))["label"].to_pylist()
    assert labels == [0, None, 1, None, None, None]
    assert [line.split(",")[-1] for line in report.notes] == [
        " for example '7000000000' in x.parquet"
    ]


def test_a_list_without_one_label_has_no_numbers(tmp_path):
    pq.write_table(images(label=[float("nan")] * 2), tmp_path / "none.parquet")
    named = write(tmp_path / "named.csv", [{"url": "http://x", "label": "cat"}])
    assert listed(tmp_path / "none.parquet", named)[0].classes == ["cat"]


def test_several_columns_of_one_name(tmp_path):
    pictures = pa.array([encoded(0), encoded(1)])
    columns = [pa.array(["http://a", "http://b"]), pa.array(["c", "d"]), pictures, pictures]
    pq.write_table(pa.table(columns, names=["url", "url", "jpg", "jpg"]), tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("url,caption,url\nhttp://a,one,c\nhttp://b,two,d\n")
    for name in ("x.parquet", "x.csv"):
        listing, rows = listed(tmp_path / name)
        assert [row["name"] for row in rows] == [b"http://a", b"http://b"]
        assert f"columns 'url' in {name}, of which the first is taken" in "".join(
            listing.notes.lines()
        )
    build([tmp_path / "x.parquet"], tmp_path / "out", BuildOptions(workers=1))
    assert {row["source"] for row, _ in of(tmp_path / "out").values()} == {"http://a", "http://b"}


def test_quotes_in_tsv_are_characters(tmp_path):
    rows = [
        'http://a\t"the sun rises',
        "http://b\tplain",
        'http://c\tsay "hi" now',
        'http://d\t"last"',
    ]
    (tmp_path / "x.tsv").write_text("\n".join(["url\tcaption", *rows]))
    _, found = listed(tmp_path / "x.tsv")
    assert [f"{row['name'].decode()}\t{members(row)['txt']}" for row in found] == rows


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "tsv"])
def test_byte_order_marks_and_windows_line_ends(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", [{"URL": f"http://x/{i}", "n": i} for i in range(3)])
    content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + (content.removeprefix(b"# a comment\r\n")))
    _, rows = listed(path)
    assert [row["name"] for row in rows] == [b"http://x/0", b"http://x/1", b"http://x/2"]


def test_what_json_can_say_and_we_must_not_write(tmp_path):
    lines = ['{"url": "http://a", "w": NaN, "c": "\\ud800", "caption": ["one"], "label": {"a": 1}}']
    lines += [
        '{"url": "http://b", "w": 1e999, "c": ["\\ud800"], "caption": "\\udcff x", "label": NaN}'
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    listing, rows = listed(tmp_path / "x.jsonl", columns={"w": "w", "c": "c"})

    def strictly(text):
        return json.loads(text, parse_constant=pytest.fail)

    assert [strictly(members(row)["json"])["w"] for row in rows] == [None, None]
    assert [members(row).get("txt") for row in rows] == [None, "\\udcff x"]
    assert listing.classes is None
    assert [line.split(",")[0] for line in listing.notes.lines()] == [
        "1 rows of x.jsonl whose 'caption' is no single value",
        "1 rows of x.jsonl whose 'label' is no single value",
    ]
    table = images(score=[float("nan"), float("inf"), 0.5], nested=[{"x": [float("nan")]}] * 3)
    pq.write_table(table, tmp_path / "x.parquet")
    _, rows = listed(tmp_path / "x.parquet", columns={"score": "score", "nested": "nested"})
    found = [strictly(members(row)["json"]) for row in rows]
    assert found == [{"score": score, "nested": {"x": [None]}} for score in (None, None, 0.5)]


def test_text_that_is_no_utf8_in_a_column_of_bytes(tmp_path):
    pq.write_table(images(caption=[b"caf\xe9", b"plain"]), tmp_path / "x.parquet")
    _, rows = listed(tmp_path / "x.parquet")
    assert [members(row)["txt"] for row in rows] == ["caf\\xe9", "plain"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_unpacked_as_far_as_was_asked(tmp_path, method):
    """bzip2 makes a kilobyte of a gigabyte, and `zipfile` would unpack all of it at once."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        with archive.open("bomb.jpg", "w") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
        archive.writestr("small.jpg", encoded(0))
    tracemalloc.start()
    assert zips.read(str(path), 0, 1 << 20) == bytes(1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert zips.read(str(path), 1, 1 << 20) == encoded(0)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_zips_that_we_unpack_ourselves(tmp_path, method):
    whole = pack(tmp_path / "whole.zip", [("a.jpg", encoded(0) * 3)], method).read_bytes()
    outcomes = set()
    for place in range(0, len(whole) - 22, 7):
        damaged = tmp_path / f"{place}.zip"
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            outcomes.add(zips.read(str(damaged), 0, 1 << 20) == encoded(0) * 3)
        except zips.DAMAGE:
            outcomes.add("damage")
    assert outcomes == {True, "damage"}  # a flipped time or name does no harm
