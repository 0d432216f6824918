"""Training a detector against torchvision's reference loop, and its evaluation against pycocotools.

    OMP_NUM_THREADS=1 python benchmarks/detect.py --data DIR [--only end,frozen,evaluation] [--json FILE]

`end`         images/s of a training step, all of the network trained but its BatchNorms' statistics and factors
`frozen`      the same where all but the last stage of a RegNetY is frozen (`freeze=4`) and its maps
              are kept, once every image has been there; and where they are computed anew each time
`evaluation`  seconds of COCO's evaluation of boxes, of ours (faster-coco-eval) and of pycocotools

The peer is torchvision's `MaskRCNN` on torchvision's own ResNet-50 or RegNetY with
`FrozenBatchNorm2d`, trained as `references/detection` of torchvision trains it: images and masks are
read, mirrored and made tensors by PIL and pycocotools, the model resizes and normalises them, the
losses are summed, and the sum is asked for its value each step. Both sides read the same images of
DIR in the same order in the training process itself (no workers), with one thread, the same sides,
the same numbers of anchors and regions, fp32, SGD. A step includes reading its images. Seconds are
those of the processor, of the best of some rounds in which all take turns.
"""

import io
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from harness import arguments, figure, interleaved, report
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2 import functional as F

from seer.distributed import World
from seer.engine.learner import Step
from seer.engine.optim import build_optimizer
from seer.engine.step import train_step
from seer.eval.data.boxes import train_and_test
from seer.eval.data.objects import Annotated, part
from seer.eval.trained.detection.average_precision import evaluated, opened
from seer.eval.trained.detection.cocofiles import Prediction, results_of, truth_of
from seer.eval.trained.detection.detect import set_up
from seer.eval.trained.detection.options import DetectConfig
from seer.interop.models import load_model

BATCH = 2
SHORT = 256
LONG = 384
SAMPLES = 128
NETWORKS = {"resnet50": "resnet50", "regnety_032": "regnet_y_3_2gf", "regnety_160": "regnet_y_16gf"}
NODES = {"resnet": "layer{}", "regnet": "trunk_output.block{}"}


class Pyramid(nn.Module):
    """torchvision's network with a pyramid, as its `_resnet_fpn_extractor` makes it."""

    def __init__(self, name: str, frozen: bool):
        super().__init__()
        network = getattr(torchvision.models, NETWORKS[name])(norm_layer=FrozenBatchNorm2d)
        node = NODES[name.rstrip("y_0123456789")]
        nodes = {node.format(i): str(i - 1) for i in range(1, 5)}
        self.body = create_feature_extractor(network, nodes)
        last = node.format(4)
        for parameter_name, parameter in self.body.named_parameters():
            parameter.requires_grad_(not frozen or parameter_name.startswith(last))
        with torch.no_grad():
            widths = [m.shape[1] for m in self.body(torch.zeros(1, 3, 64, 64)).values()]
        self.fpn = FeaturePyramidNetwork(widths, 256, LastLevelMaxPool())
        self.out_channels = 256

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class Reference:
    """torchvision's reference training, as far as it is a step."""

    def __init__(self, images: Annotated, network: str, frozen: bool):
        from pycocotools import mask

        self.mask = mask
        self.images = images
        anchors = AnchorGenerator(tuple((s,) for s in (32, 64, 128, 256, 512)), ((0.5, 1, 2),) * 5)
        self.model = MaskRCNN(
            Pyramid(network, frozen),
            len(images.classes) + 1,
            rpn_anchor_generator=anchors,
            min_size=SHORT,
            max_size=LONG,
            box_batch_size_per_image=SAMPLES,
        ).train()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)
        self.generator = np.random.default_rng(0)

    def sample(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """An image and its objects, as `CocoDetection` and the reference's transforms give them."""
        picture = Image.open(io.BytesIO(self.images.source.bytes(number))).convert("RGB")
        width, height = picture.size
        table = self.images.objects
        own = [i for i in table.of(number) if not table.crowd[i] and table.masked[i]]
        masks = np.zeros((len(own), height, width), np.uint8)
        for place, i in enumerate(own):
            polygons = [p.astype(float).reshape(-1).tolist() for p in table.polygons(i)]
            encoded = self.mask.frPyObjects(polygons, height, width)
            masks[place] = self.mask.decode(encoded).any(axis=2)
        target = {
            "boxes": torch.from_numpy(table.boxes[own].reshape(-1, 4)),
            "labels": torch.from_numpy(table.labels[own] + 1),
            "masks": torch.from_numpy(masks),
        }
        image = F.pil_to_tensor(picture)
        if self.generator.random() < 0.5:
            image = F.horizontal_flip(image)
            target["boxes"] = target["boxes"].clone()
            target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
            target["masks"] = target["masks"].flip(-1)
        return F.to_dtype(image, torch.float, scale=True), target

    def step(self, numbers: list[int]) -> float:
        samples = [self.sample(number) for number in numbers]
        images = [image for image, _ in samples]
        targets = [target for _, target in samples]
        losses = sum(self.model(images, targets).values())
        value = losses.item()
        self.optimizer.zero_grad()
        losses.backward()
        self.optimizer.step()
        return value


class Ours:
    """A step of `seer eval detect`."""

    def __init__(self, images: Annotated, data: Path, network: str, **options: Any):
        self.config = DetectConfig(
            model=f"{network}:random",
            data=str(data),
            batch_size=BATCH,
            steps=10**6,
            masks="yes",
            samples=SAMPLES,
            short_sides=[SHORT],
            long_side=LONG,
            device="cpu",
            **options,
        )
        self.config.loader.workers = 0
        self.training = set_up(self.config, load_model(self.config.model), images, World())
        self.training.module.train()
        self.optimizer = build_optimizer(self.training.learner, self.config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-4
        self.batches: Iterator[Any] = iter(self.training.batches.iterate(0, 10**6))
        self.number = 0

    def step(self) -> list[int]:
        """Make a step, and return which images it was of."""
        batch = next(self.batches)
        where = Step(self.number, 10**6, lr=1e-4)
        train_step(
            self.training.learner, self.training.module, self.optimizer, batch, where, "fp32"
        )
        self.number += 1
        return batch.index.tolist()


def training(data: Path, network: str, title: str, rounds: int, frozen: bool) -> dict[str, Any]:
    """Images/s of both, image by image the same."""
    train, _ = train_and_test(data)
    used = part(train, train.with_objects()[:8] if frozen else train.with_objects())
    options: dict[str, Any] = {"freeze": 4 if frozen else 0}
    torch.manual_seed(0)
    contestants: dict[str, Callable[[], Any]] = {}
    ours = Ours(used, data, network, **options, **({"keep_features": 4.0} if frozen else {}))
    theirs = Reference(used, network, frozen)
    seen: list[int] = []

    def seer() -> None:
        seen[:] = ours.step()

    contestants["seer"] = seer
    contestants["torchvision"] = lambda: theirs.step(seen)
    if frozen:
        anew = Ours(used, data, network, **options)
        contestants["seer, maps computed anew"] = anew.step
        for _ in range(8 * len(used) // BATCH):  # until each image was there on both sides
            ours.step()
    seconds = interleaved(contestants, rounds, clock=time.process_time)
    rates = {name: BATCH / value for name, value in seconds.items()}
    return figure(title, "images/s of a processor", rates.pop("seer"), rates)


def evaluation(data: Path, repeats: int) -> dict[str, Any]:
    """Seconds of COCO's evaluation, of invented boxes, as many as an image may have."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, _ = train_and_test(data)
    rng = np.random.default_rng(0)
    predictions = []
    for i, (height, width) in enumerate(images.objects.sizes.tolist()):
        low = rng.uniform(0, 0.7, (100, 2)) * (width, height)
        boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, (100, 2)) * (width, height)], 1)
        labels = rng.integers(0, len(images.classes), 100)
        predictions.append(Prediction(i, boxes, rng.random(100), labels))
    truth = truth_of(images, masks=False)
    results = results_of(predictions)
    files = opened(truth, results)
    gold = COCO()
    gold.dataset = truth
    gold.createIndex()
    found = gold.loadRes(results)

    def theirs() -> None:
        made = COCOeval(gold, found, "bbox")
        made.evaluate()
        made.accumulate()

    contestants = OrderedDict(seer=lambda: evaluated(*files, "box"), pycocotools=theirs)
    seconds = interleaved(contestants, repeats, warmup=1, clock=time.process_time)
    title = f"evaluation of {len(images)} images, 100 boxes each"
    return figure(title, "s of a processor", seconds.pop("seer"), seconds)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="end,frozen,evaluation")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = []
    if "end" in options.only:
        title = f"Mask R-CNN on a ResNet-50, {SHORT} px, all trained"
        figures.append(training(options.data, "resnet50", title, options.rounds, False))
    if "frozen" in options.only:
        for network in ("regnety_032", "regnety_160"):
            title = f"Mask R-CNN on {network}, {SHORT} px, the last stage trained"
            figures.append(training(options.data, network, title, options.rounds, True))
    if "evaluation" in options.only:
        figures.append(evaluation(options.data, options.rounds))
    report(figures, options.json)


if __name__ == "__main__":
    main()
