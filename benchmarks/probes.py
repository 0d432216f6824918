"""Probes of frozen features against the libraries that people measure them with.

    OMP_NUM_THREADS=1 python benchmarks/probes.py [--only knn,logreg] [--json FILE]

`features`  images/s through a ResNet-50 at 224 px, decoding included, and again from the cache
`knn`       the 20 and 200 nearest of 20,000 features to 1,000 queries, D = 2,048 and 128, beside lightly's
            `knn_predict` and faiss's exact index (`pip install faiss-cpu`; left out where it is not)
`logreg`    the 45 λ of `configs/eval/logreg.yaml` on 10,000 × 2,048 features of 100 classes, beside
            scikit-learn's `LogisticRegression`, for time's sake at every fourth λ only: warm-started,
            with a tenth of its tolerance again and again, until its loss is within 1e-4 of ours,
            and in float64, since in float32 it ends before that. By its own tolerance, which the
            benchmark used, it ends after 0 iterations where λ < 1
`linear`    SGD on cached features: one head, and a grid of 12 in one pass

Features are synthetic, as those of a network are: not negative, correlated, of very different sizes.
Seconds are those of a processor, of all threads together, since the machine may have other work.
All contestants have the same number of threads. Each is a process of its own, so that what it needs
at most, beyond its input, is measured.
"""

import gc
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from harness import arguments, figure, report
from PIL import Image

THREADS = int(os.environ.get("OMP_NUM_THREADS") or 1)
IMAGES = 256
BANK = 20_000
QUERIES = 1_000
CLASSES = 1_000
TEMPERATURE = 0.07
EVERY = 4  # of the λ, those that scikit-learn solves


def synthetic(folder: Path, name: str, images: int, width: int, classes: int) -> None:
    """Write features `(images, width)` float32 and labels as `NAME.npy` and `NAME-labels.npy`."""
    random = np.random.default_rng(0)
    sizes = np.arange(1, width + 1) ** -0.7  # of principal directions, by a power law
    turn, _ = np.linalg.qr(random.standard_normal((width, width)))
    labels = random.integers(0, classes, images)
    centres = random.standard_normal((classes, width))
    points = (centres[labels] + random.standard_normal((images, width))) * sizes
    features = np.maximum(points @ turn * np.sqrt(width) / 2, 0)
    np.save(folder / f"{name}.npy", features.astype(np.float32))
    np.save(folder / f"{name}-labels.npy", labels)


def alone(function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *inputs).result()


class Measured:
    """Seconds of a processor that a block takes, and the most memory that it holds beyond what was
    held before.
    """

    def __enter__(self) -> "Measured":
        gc.collect()
        torch.set_num_threads(THREADS)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        self.held = resident("VmRSS")
        self.began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self.began
        self.mebibytes = (resident("VmHWM") - self.held) / 1024


def best(run: Callable[[], dict[str, Any]], rounds: int = 4) -> dict[str, Any]:
    """What a run gives, with the `seconds` of its fastest round and the `memory` of the first."""
    measurements = []
    for _ in range(rounds):
        with Measured() as measured:
            result = run()
        measurements.append(measured)
    seconds = min(measured.seconds for measured in measurements)
    return {**result, "seconds": seconds, "memory": measurements[0].mebibytes}


def resident(field: str) -> int:
    """KiB of memory, now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / f"{name}.npy"), np.load(folder / f"{name}-labels.npy")


def penalties() -> np.ndarray:
    return np.logspace(5, -6, 45)


def our_regression(folder: Path) -> dict[str, Any]:
    from seer.eval.probes.regression import Axes, Softmax
    from seer.eval.probes.regression import Path as Solutions

    features, labels = load(folder, "logreg")
    with Measured() as measured:
        axes = Axes.of(torch.from_numpy(features))
        path = Solutions(axes, Softmax(torch.from_numpy(labels), 100))
        solutions = []
        for penalty in penalties().tolist():
            solutions.append(path.solve(penalty, 1e-7, 1000))
            print(
                f"  seer, λ = {penalty:.3g}: {time.process_time() - measured.began:.1f} s so far",
                file=sys.stderr,
                flush=True,
            )
    losses = [float(solution.losses) for solution in solutions]
    passes = sum(solution.passes for solution in solutions)
    return {
        "seconds": measured.seconds,
        "memory": measured.mebibytes,
        "losses": losses,
        "passes": passes,
    }


def scikit_learns_regression(folder: Path, losses: list[float]) -> dict[str, Any]:
    import warnings

    from scipy.special import logsumexp
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")  # that it did not converge
    features, labels = load(folder, "logreg")
    features = features.astype(np.float64)
    wanted = dict(zip(penalties()[::EVERY].tolist(), losses[::EVERY], strict=True))
    result: dict[str, Any] = {"seconds": 0.0, "memory": 0.0, "excess": [], "iterations": []}
    oracle = LogisticRegression(max_iter=10_000, warm_start=True)
    for penalty, optimum in wanted.items():
        oracle.C = 1 / penalty
        iterations = 0
        for digits in range(4, 14):
            oracle.tol = 10.0**-digits
            with Measured() as measured:
                oracle.fit(features, labels)
            result["seconds"] += measured.seconds
            result["memory"] = max(result["memory"], measured.mebibytes)
            iterations += int(oracle.n_iter_[0])
            logits = features @ oracle.coef_.T + oracle.intercept_
            own = logits[np.arange(len(labels)), labels]
            loss = (logsumexp(logits, axis=1) - own).sum() + penalty / 2 * (oracle.coef_**2).sum()
            if loss <= optimum * (1 + 1e-4):
                break
        result["excess"].append(float(loss / optimum - 1))
        result["iterations"].append(iterations)
        print(
            f"  scikit-learn, λ = {penalty:.3g}: {iterations} iterations, tol {oracle.tol:g}, "
            f"excess {loss / optimum - 1:.1e}, {result['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return result


def logreg(folder: Path) -> list[dict[str, Any]]:
    synthetic(folder, "logreg", 10_000, 2048, 100)
    ours = alone(our_regression, folder)
    print(f"logreg: {ours['passes']} passes over the features, {ours['seconds']:.0f} s for 45 λ")
    theirs = alone(scikit_learns_regression, folder, ours["losses"])
    solved = len(theirs["excess"])
    print(
        f"scikit-learn: {theirs['iterations']} iterations; its loss over ours "
        f"{min(theirs['excess']):+.1e} to {max(theirs['excess']):+.1e}"
    )
    return [
        figure(
            "logreg, 10,000 × 2,048, 100 classes, of one λ in the path of 45",
            "s",
            ours["seconds"] / 45,
            {"scikit-learn": theirs["seconds"] / solved},
        ),
        figure(
            "logreg, memory beyond the features",
            "MiB",
            ours["memory"],
            {"scikit-learn": theirs["memory"]},
        ),
    ]


def our_neighbours(folder: Path, k: int) -> dict[str, Any]:
    from seer.eval.probes.knn import vote
    from seer.eval.probes.search import search

    features, labels = map(torch.from_numpy, load(folder, "knn"))
    bank, queries = features[QUERIES:], features[:QUERIES]

    def run() -> dict[str, Any]:
        nearness, places = search(queries, bank, k, torch.device("cpu"))
        predicted = vote(nearness, labels[QUERIES:][places], CLASSES, TEMPERATURE)
        return {"predicted": predicted, "places": places}

    return best(run)


def lightlys_neighbours(folder: Path, k: int) -> dict[str, Any]:
    from lightly.utils.benchmarking import knn_predict
    from torch.nn import functional as F

    features, labels = map(torch.from_numpy, load(folder, "knn"))

    def run() -> dict[str, Any]:
        bank = F.normalize(features[QUERIES:], dim=1).T.contiguous()
        parts = []
        for chunk in F.normalize(features[:QUERIES], dim=1).split(256):  # its example's batch
            ranked = knn_predict(chunk, bank, labels[QUERIES:], CLASSES, knn_k=k, knn_t=TEMPERATURE)
            parts.append(ranked[:, 0])
        return {"predicted": torch.cat(parts)}

    return best(run)


def faiss_neighbours(folder: Path, k: int) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    features, _ = load(folder, "knn")

    def run() -> dict[str, Any]:
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        directions = features / lengths
        index = faiss.IndexFlatIP(features.shape[1])
        index.add(directions[QUERIES:])
        _, places = index.search(directions[:QUERIES], k)
        return {"places": torch.from_numpy(places)}

    return best(run)


def knn(folder: Path) -> list[dict[str, Any]]:
    figures = []
    for width, k in ((2048, 20), (2048, 200), (128, 20), (128, 200)):
        synthetic(folder, "knn", BANK + QUERIES, width, CLASSES)
        ours = alone(our_neighbours, folder, k)
        theirs = {"lightly": alone(lightlys_neighbours, folder, k)}
        agreement = (ours["predicted"] == theirs["lightly"]["predicted"]).double().mean()
        print(
            f"D = {width}, k = {k}: {100 * float(agreement):.2f} % of lightly's predictions are ours"
        )
        if importlib.util.find_spec("faiss"):
            theirs["faiss, search alone"] = alone(faiss_neighbours, folder, k)
            same = (ours["places"] == theirs["faiss, search alone"]["places"]).double().mean()
            print(f"D = {width}, k = {k}: {100 * float(same):.2f} % of faiss's neighbours are ours")
        name = f"kNN, {QUERIES:,} queries, {BANK:,} features, D = {width}, k = {k}, 1,000 classes"
        for key, unit in (("seconds", "s"), ("memory", "MiB")):
            peers = {peer: result[key] for peer, result in theirs.items()}
            figures.append(figure(f"{name}: {key}", unit, ours[key], peers))
    return figures


def our_heads(folder: Path, rates: int, decays: int) -> float:
    from seer.eval.probes.linear import cached_batches, fit
    from seer.eval.probes.options import LinearConfig

    features, labels = map(torch.from_numpy, load(folder, "linear"))
    config = LinearConfig(epochs=3, device="cpu")
    settings = [(0.1 / 2**i, 1e-4 * j) for i in range(rates) for j in range(decays)]
    batches = cached_batches(features, labels, config)
    with Measured() as measured:
        fit(batches, len(labels), features.shape[1], 100, settings, config)
    return measured.seconds


def linear(folder: Path) -> list[dict[str, Any]]:
    synthetic(folder, "linear", 10_000, 2048, 100)
    grid = alone(our_heads, folder, 4, 3)
    single = alone(our_heads, folder, 1, 1)
    return [
        figure(
            "linear, 3 epochs of 10,000 × 2,048 cached features, 12 settings in one pass",
            "s",
            grid,
            {"one setting": single, "12 passes of one": 12 * single},
        )
    ]


def feature_seconds(folder: Path) -> dict[str, float]:
    from seer.data.labelled import load_labelled
    from seer.eval.probes.features import extract
    from seer.eval.probes.options import FeatureConfig
    from seer.interop.models import load_model

    os.environ["SEER_CACHE"] = str(folder / "cache")
    random = np.random.default_rng(0)
    (folder / "images/noise").mkdir(parents=True)
    for i in range(IMAGES):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(folder / f"images/noise/{i}.jpg", quality=90)
    data = load_labelled(folder / "images")
    model = load_model("torchvision:resnet50:random")
    with Measured() as bare, torch.inference_mode():
        model.backbone.eval()(torch.zeros(64, 3, 224, 224))
    with Measured() as first:
        extract(model, data, FeatureConfig(device="cpu"))
    with Measured() as again:
        extract(model, data, FeatureConfig(device="cpu"))
    return {
        "first": IMAGES / first.seconds,
        "again": IMAGES / again.seconds,
        "bare": 64 / bare.seconds,
    }


def features(folder: Path) -> list[dict[str, Any]]:
    rates = alone(feature_seconds, folder)
    return [
        figure(
            "features of a ResNet-50 at 224 px, JPEGs decoded",
            "images/s",
            rates["first"],
            {"the network alone, a batch of 64": rates["bare"]},
        ),
        figure("the same from the cache", "images/s", rates["again"], {}),
    ]


PARTS = {"features": features, "knn": knn, "logreg": logreg, "linear": linear}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    options = parser.parse_args()
    figures = []
    with TemporaryDirectory() as folder:
        for part in options.only.split(","):
            figures += PARTS[part](Path(folder))
    report(figures, options.json)


if __name__ == "__main__":
    main()
