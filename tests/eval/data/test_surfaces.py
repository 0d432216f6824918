"""Images with normals or depth: the layouts in miniature, and everything that can be wrong with them."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from seer.errors import InputError
from seer.eval.data import surfaces
from seer.eval.data.collector import DAMAGED
from seer.eval.data.imagepairs import ABSENT_MAP, DAMAGED_MAP, OTHER_SIZE
from seer.eval.data.mapfiles import HOLES, NOT_NORMAL, absent
from seer.eval.data.surfacelayouts import RULE, TURNED
from seer.eval.data.surfaces import check_layout, rule_of, train_and_test
from seer.eval.dense.surface_errors import angles_between
from tests.kit import rooms


@pytest.fixture(autouse=True)
def forget():
    surfaces._read.cache_clear()


def off(truth: np.ndarray, read: np.ndarray) -> float:
    """The largest angle between normals that are known in both."""
    return float(np.nanmax(angles_between(truth, read)))


def test_frames_of_a_film_are_split_by_time_and_have_normals_from_depth(tmp_path):
    made = rooms.frames(tmp_path, 10)
    check_layout(tmp_path)
    assert rule_of(tmp_path) == RULE
    train, test = train_and_test(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    assert [test.source.key(i) for i in (0, 1)] == [
        "frame-000008.color.png",
        "frame-000009.color.png",
    ]
    assert train.origin == "computed from depth"
    assert np.array_equal(test.image(0), made[8].image)
    depth = test.depth(0)
    assert np.isnan(depth).sum() == 15
    assert np.isnan(depth[:3, :5]).all()
    assert np.abs(depth[3:] - made[8].depth[3:]).max() < 0.00051
    normals = test.normals(0)
    known = np.isfinite(normals[..., 0])
    assert known.mean() > 0.9
    assert absent(normals)[HOLES] == (~known).sum() >= 15
    assert np.nanmedian(angles_between(made[8].normals, normals)) < 1
    assert pickle.loads(pickle.dumps(test)).normals(0).shape == (48, 64, 3)


@pytest.mark.parametrize("levels", [255, 65535])
def test_normals_as_pictures_are_read_to_their_steps(tmp_path, levels):
    made = rooms.pairs(tmp_path, 5, levels=levels)
    normals = made[4].normals.copy()
    normals[0, :7] = np.nan
    rooms.picture(tmp_path / "normals/4.png", rooms.colours(normals, levels))
    _, test = train_and_test(tmp_path)
    read = test.normals(0)
    assert np.isnan(read[0, :7]).all()
    assert absent(read) == {HOLES: 7}
    assert off(normals, read) < 90 / levels
    assert np.linalg.norm(read[1:], axis=-1) == pytest.approx(1)
    with pytest.raises(InputError, match="has normals and no depth"):
        test.depth(0)


def test_arrays_are_read_in_either_order(tmp_path):
    made = rooms.pairs(tmp_path, 3)
    (tmp_path / "depth").mkdir()
    for number, each in enumerate(made):
        (tmp_path / f"normals/{number}.png").unlink()
        shown = each.normals if number < 2 else each.normals.transpose(2, 0, 1)
        np.save(tmp_path / f"normals/{number}.npy", np.asfortranarray(shown))
        np.save(tmp_path / f"depth/{number}.npy", each.depth)
    train, test = train_and_test(tmp_path)
    assert np.allclose(train.normals(0), made[0].normals, atol=1e-6)
    assert np.allclose(test.normals(0), made[2].normals, atol=1e-6)
    assert np.allclose(test.depth(0), made[2].depth, atol=1e-6)
    np.save(tmp_path / "normals/0.npy", np.zeros((3, 4, 5, 3)))
    with pytest.raises(InputError, match="holds no normals"):
        train.normals(0)
    (tmp_path / "normals/0.npy").write_bytes((tmp_path / "normals/1.npy").read_bytes()[:-8])
    with pytest.raises(InputError, match="not as many numbers as it says"):
        train.normals(0)


def test_vectors_that_are_no_normals_are_counted(tmp_path):
    made = rooms.pairs(tmp_path, 2)
    (tmp_path / "normals/1.png").unlink()
    normals = made[1].normals.copy()
    normals[0] = np.nan
    normals[1, :5] = np.inf
    normals[2] = 0
    normals[3] *= 2
    normals[4] *= 1.05  # as from eight bits
    np.save(tmp_path / "normals/1.npy", normals)
    _, test = train_and_test(tmp_path)
    read = test.normals(0)
    assert absent(read) == {NOT_NORMAL: 64 + 5 + 64, HOLES: 64}
    assert not np.isfinite(read[[0, 2, 3]]).any()
    assert off(made[1].normals[4:], read[4:]) < 0.01


def test_what_is_left_out_is_counted(tmp_path):
    rooms.pairs(tmp_path / "train", 7)
    rooms.pairs(tmp_path / "val", 2)
    (tmp_path / "train/normals/4.png").write_bytes(b"no picture")
    (tmp_path / "train/normals/0.png").unlink()
    rooms.picture(tmp_path / "train/normals/1.png", np.zeros((48, 63, 3), np.uint8))
    (tmp_path / "train/images/2.png").write_bytes(b"no picture")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(tmp_path / "train/images/3.png").save(tmp_path / "train/images/3.png", exif=turned)
    train, test = train_and_test(tmp_path)
    assert train.counts == {ABSENT_MAP: 1, OTHER_SIZE: 1, DAMAGED: 1, TURNED: 1, DAMAGED_MAP: 1}
    assert (len(train), len(test), test.counts) == (2, 2, {})
    assert train.sizes.tolist() == [[48, 64]] * 2
    assert rule_of(tmp_path) == ""


def metres(folder: Path) -> None:
    """Whole metres in place of millimetres."""
    rooms.picture(folder / "frame-000003.depth.png", np.full((48, 64), 2, np.uint16))


def far_too_many(folder: Path) -> None:
    (folder / "frame-000003.depth.png").unlink()
    np.save(folder / "frame-000003.depth.npy", np.full((48, 64), 2000.0))


def eight_bits(folder: Path) -> None:
    rooms.picture(folder / "frame-000003.depth.png", np.full((48, 64), 2, np.uint8))


def no_camera(folder: Path) -> None:
    (folder / "camera-intrinsics.txt").unlink()


def damaged(folder: Path) -> None:
    path = folder / "frame-000003.depth.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (metres, r"depth\.png: has a median depth of 0\.002 m: are its numbers metres\?"),
        (far_too_many, r"depth\.npy: has a median depth of 2e\+03 m: are its numbers not metres\?"),
        (eight_bits, "is no depth"),
        (no_camera, "has depth and no camera-intrinsics.txt"),
        (damaged, "cannot be read"),
    ],
)
def test_depth_that_cannot_be_is_one_line(tmp_path, spoil, message):
    rooms.frames(tmp_path, 4)
    spoil(tmp_path)
    _, test = train_and_test(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        test.normals(0)
    assert "\n" not in str(error.value)


def test_all_holes_are_no_error(tmp_path):
    rooms.frames(tmp_path, 4)
    depth = np.zeros((48, 64), np.uint16)
    depth[:, :9] = 65535
    rooms.picture(tmp_path / "frame-000003.depth.png", depth)
    _, test = train_and_test(tmp_path)
    assert np.isnan(test.depth(0)).all()
    assert absent(test.normals(0)) == {HOLES: 48 * 64}


def test_a_camera_is_nine_or_four_numbers(tmp_path):
    rooms.frames(tmp_path, 4)
    file = tmp_path / "camera-intrinsics.txt"
    nine = train_and_test(tmp_path)[0]
    file.write_text("60, 58, 31.5 23.5\n")
    surfaces._read.cache_clear()
    four = train_and_test(tmp_path)[0]
    assert four.camera == nine.camera == rooms.CAMERA
    for words in ("", "1 2 3", "a b c d", "0 58 31.5 23.5", "nan 58 31.5 23.5"):
        file.write_text(words)
        surfaces._read.cache_clear()
        with pytest.raises(InputError, match="holds no camera"):
            train_and_test(tmp_path)


def test_layouts_that_are_none_are_one_line(tmp_path):
    with pytest.raises(InputError, match="has no images with normals or depth; give images/"):
        check_layout(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check_layout(tmp_path / "nowhere")
    with pytest.raises(InputError, match="read from a folder"):
        check_layout("https://example.com/rooms")
    with pytest.raises(InputError, match="and no normals"):
        check_layout(f"cifar10:{tmp_path}")
    rooms.pairs(tmp_path / "one", 1)
    with pytest.raises(InputError, match="has one image"):
        train_and_test(tmp_path / "one")
    rooms.pairs(tmp_path / "bare", 2)
    for number in range(2):
        (tmp_path / f"bare/normals/{number}.png").unlink()
    with pytest.raises(InputError, match="has no image with its map"):
        train_and_test(tmp_path / "bare")
    rooms.pairs(tmp_path / "mixed/train", 2)
    rooms.frames(tmp_path / "mixed/test", 2)
    with pytest.raises(InputError, match="one split has normals and the other depth"):
        train_and_test(tmp_path / "mixed")


@pytest.mark.parametrize("normals", ["", "png", "mat"])
def test_nyu_is_read_as_it_is_published(tmp_path, normals):
    pytest.importorskip("h5py")
    made = rooms.nyu(tmp_path, normals)
    assert rule_of(tmp_path) == ""
    halves = dict(zip(("train", "test"), train_and_test(f"nyuv2:{tmp_path}"), strict=True))
    for name, numbers in (("train", rooms.TRAIN), ("test", rooms.TEST)):
        images = halves[name]
        assert [images.source.key(i) for i in range(3)] == [f"{n:04d}" for n in numbers]
        for place, number in enumerate(numbers):
            truth = made[number - 1]
            assert np.array_equal(images.image(place), truth.image)
            depth = images.depth(place)
            assert np.isnan(depth[:4]).all()  # as measured, not as filled in
            assert np.allclose(depth[4:], truth.depth[4:])
            read = images.normals(place)
            known = np.isfinite(read[..., 0])
            if normals:
                assert known[:, :-6].all()
                assert not known[:, -6:].any()
                assert off(truth.normals, read) < 0.5
            else:
                assert not known[:4].any()
                assert known.mean() > 0.8
    assert halves["test"].origin == ("as given" if normals else "computed from depth")
    assert halves["test"].dataset == ""  # of another size than the owners'
    assert pickle.loads(pickle.dumps(halves["test"])).image(0).shape == (48, 64, 3)


def test_masks_are_numbered_from_0_or_from_1(tmp_path):
    pytest.importorskip("h5py")
    made = rooms.nyu(tmp_path, "png")
    masks = tmp_path / "nyu_normals_gt/masks"
    whole = np.full((48, 64), 255, np.uint8)
    whole[0] = 0
    rooms.picture(masks / "0000.png", whole)  # of frame 1
    _, test = train_and_test(tmp_path)
    assert np.isfinite(test.normals(0)[1:]).all()
    assert np.isnan(test.normals(1)[:, -6:]).all()
    for number in range(5, -1, -1):
        (masks / f"{number:04d}.png").rename(masks / f"{number + 1:04d}.png")
    surfaces._read.cache_clear()
    _, test = train_and_test(tmp_path)
    assert np.isfinite(test.normals(0)[1:]).all()
    assert off(made[0].normals, test.normals(0)) < 0.5


def test_the_published_clusters_are_taken(tmp_path):
    pytest.importorskip("h5py")
    rooms.nyu(tmp_path, "mat")
    centres = np.random.default_rng(0).normal(size=(40, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rooms.vocabulary(tmp_path, centres)
    train, _ = train_and_test(tmp_path)
    assert np.allclose(train.codebook, centres)
    rooms.vocabulary(tmp_path, np.zeros((40, 3)))
    surfaces._read.cache_clear()
    with pytest.raises(InputError, match="its vocabs hold no normals"):
        train_and_test(tmp_path)


def test_what_is_wrong_with_nyu_is_one_line(tmp_path):
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "nyuv2"
    rooms.nyu(folder, "png")

    def refused(message: str) -> None:
        surfaces._read.cache_clear()
        with pytest.raises(InputError, match=message) as error:
            train_and_test(tmp_path)
        assert "\n" not in str(error.value)

    (folder / "nyu_normals_gt/train/00003.png").unlink()
    refused(r"00003\.png is missing")
    scipy.io.savemat(
        folder / "splits.mat", {"trainNdxs": np.array([[7]]), "testNdxs": np.array([[1]])}
    )
    refused("trainNdxs names other frames than 1 to 6")
    (folder / "splits.mat").unlink()
    refused(r"splits\.mat is missing")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["rawDepths"], file["depths"]
        file["depths"] = np.zeros((6, 48, 64))
    rooms.scipy.io.savemat(folder / "splits.mat", {"trainNdxs": [[1]], "testNdxs": [[2]]})
    refused("do not go together")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["depths"]
        file["depths"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "depths")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["depths"] = np.ones((6, 64, 48))
    refused("its depths are no numbers within the file")
    (folder / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 7.3 MAT-file")
    refused("not readable as nyu_depth_v2_labeled.mat")


def test_one_pickle_of_all_normals_is_refused(tmp_path):
    pytest.importorskip("h5py")
    rooms.nyu(tmp_path)
    (tmp_path / "all_normals.pklz").write_bytes(b"")
    with pytest.raises(InputError, match="is one pickle of 5 GB, which is not read"):
        train_and_test(tmp_path)


def test_a_map_of_another_size_than_its_image_is_refused_when_it_is_read(tmp_path):
    """As one that nothing told of before: a MATLAB file says its size within."""
    rooms.pairs(tmp_path, 2)
    (tmp_path / "normals/1.png").unlink()
    wide = np.zeros((48, 70))
    parts = {"nx": wide, "ny": wide, "nz": wide - 1, "depthValid": wide + 1}
    scipy.io.savemat(tmp_path / "normals/1.mat", parts)
    _, test = train_and_test(tmp_path)
    with pytest.raises(InputError, match=r"1\.mat: is 70 × 48 px, and its image 64 × 48"):
        test.normals(0)


def test_the_same_images_are_known_again_wherever_they_lie(tmp_path):
    rooms.pairs(tmp_path / "a", 4)
    rooms.pairs(tmp_path / "b", 4)
    here, there = (train_and_test(tmp_path / name)[0] for name in "ab")
    assert here.listing() == there.listing()
    fingerprint = here.fingerprint
    before = cv2.imread(str(tmp_path / "a/normals/0.png"))
    rooms.picture(tmp_path / "a/normals/0.png", 255 - before)
    surfaces._read.cache_clear()
    assert train_and_test(tmp_path / "a")[0].fingerprint != fingerprint


def npy(text: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n" + body


def header(shape: str, kind: str = "<f4") -> str:
    return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"


BODY = np.full(48 * 64, 2, np.float32).tobytes()


@pytest.mark.parametrize(
    "content",
    [
        npy(header("(48, 64, -1, -1)"), BODY),
        npy(header("(48, 64, True)"), BODY),
        npy(header("(48, 64)", "f,,"), BODY),
        npy("{'shape': (((((("),
        npy("-" * 9000 + "1"),
        npy('"""'),
        b"",
    ],
)
def test_arrays_whose_beginning_is_damaged_are_left_out(tmp_path, content):
    rooms.frames(tmp_path, 4)
    (tmp_path / "frame-000000.depth.png").unlink()
    (tmp_path / "frame-000000.depth.npy").write_bytes(content)
    train, _ = train_and_test(tmp_path)
    assert train.counts == {DAMAGED_MAP: 1}


@pytest.mark.parametrize("spoil", [lambda png: png[:-20], lambda png: png[:200] + b"?" + png[201:]])
def test_a_damaged_picture_is_one_line_and_no_library_adds_to_it(tmp_path, capfd, spoil):
    rooms.frames(tmp_path, 4)
    path = tmp_path / "frame-000000.depth.png"
    path.write_bytes(spoil(path.read_bytes()))
    train, _ = train_and_test(tmp_path)
    capfd.readouterr()
    with pytest.raises(InputError, match="damaged or cut short"):
        train.depth(0)
    assert capfd.readouterr().err == ""


def test_half_a_jpeg_is_no_map_of_normals(tmp_path):
    rooms.pairs(tmp_path, 4)
    path = tmp_path / "normals/0.png"
    pixels = cv2.imread(str(path))
    path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes()[:-40])
    train, _ = train_and_test(tmp_path)
    with pytest.raises(InputError, match="JPEG, not PNG"):
        train.normals(0)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_all_are_no_more_than_holes(tmp_path):
    rooms.frames(tmp_path, 4)
    (tmp_path / "frame-000000.depth.png").unlink()
    values = np.full((rooms.HEIGHT, rooms.WIDTH), 2.0)
    values[0] = 1e300
    np.save(tmp_path / "frame-000000.depth.npy", values)
    depth = train_and_test(tmp_path)[0].depth(0)
    assert np.isnan(depth[0]).all()
    assert (depth[1:] == 2).all()
    rooms.pairs(tmp_path / "b", 4)
    (tmp_path / "b/normals/0.png").unlink()
    np.save(tmp_path / "b/normals/0.npy", np.full((rooms.HEIGHT, rooms.WIDTH, 3), 1e300))
    assert np.isinf(train_and_test(tmp_path / "b")[0].normals(0)).all()


@pytest.mark.filterwarnings("error")
def test_frames_in_both_splits_or_of_other_types_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "nyuv2"
    rooms.nyu(folder)

    def refused(message: str) -> None:
        surfaces._read.cache_clear()
        with pytest.raises(InputError, match=message):
            train_and_test(tmp_path)

    for numbers in ([1, np.inf], [1, 1e300]):
        scipy.io.savemat(folder / "splits.mat", {"trainNdxs": numbers, "testNdxs": [2]})
        refused("no list of whole numbers")
    scipy.io.savemat(folder / "splits.mat", {"trainNdxs": [1, 2], "testNdxs": [2]})
    refused("names frame 2 twice")
    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "r+") as file:
        images = file["images"][()]
        del file["images"]
        file["images"] = images / 255
    refused("its images are of type float64")
    with h5py.File(path, "r+") as file:
        del file["images"]
        shape = (6, 3, 10_000, 10_000)
        file.create_dataset("images", images.shape, "u1", maxshape=(None,) * 4, chunks=shape)
    refused("packed in pieces of 1,800,000,000 numbers")
    with h5py.File(path, "r+") as file:
        del file["images"]
        file["images"] = h5py.Empty("u1")
    refused("do not go together")
