"""Images that lie in memory whole, and the crops of whole batches of them, made where they lie.

No step waits for the host: it chooses the images of an epoch and the order of the jitter, and the
device draws, cuts and colours a batch in a few dozen operations. The distributions are those of
`seer.data.crops.draws`, but for two things: a batch has one order of the jitter's operations, as
torchvision's `ColorJitter` has of a batch, and there is neither blur nor solarisation.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seer.data.crops.augment import blend_batch, luma, rotate_hues
from seer.data.crops.draws import (
    AREA,
    ATTEMPTS,
    FACTORS,
    FLIP,
    GREY,
    IDENTITY,
    JITTER,
    LEFT,
    ORDERS,
    RATIO,
    TOP,
    UNIFORMS,
    Op,
)
from seer.data.crops.options import View, check_views
from seer.data.hashing import mix
from seer.data.ledger import MODULUS, fingerprint
from seer.data.views import Views
from seer.distributed import World
from seer.errors import InputError

# One domain of the hash per use.
IMAGES = 1
CROPS = 2
JITTERS = 3


@dataclass(frozen=True)
class Boxes:
    """Where N crops are cut, `(N,)` each, in pixels; `flip` is bool."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


class ResidentBatches:
    """Batches of crops of images in memory. What a step takes, and how it looks, is a function of
    (seed, step), so a run can begin anywhere; each image comes once per epoch.

    Args:
        pixels: `(N, H, W, 3)` uint8.
        views: as in a pretraining.
        batch_size: over all ranks; this one makes its share.
        mean, std: of the channels, on the scale where white is 1.

    Raises:
        InputError: views that make no sense or are blurred or solarised; fewer images than a batch.
    """

    wait_seconds = 0.0

    def __init__(
        self,
        pixels: Tensor,
        views: dict[str, View],
        batch_size: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        world: World,
        name: str = "images in memory",
    ) -> None:
        check_views(views)
        for key, view in views.items():
            if view.count and (view.blur or view.solarize):
                raise InputError(
                    f"views.{key}: crops in memory are neither blurred nor solarised; set blur=0, solarize=0"
                )
        self.samples = len(pixels)
        if self.samples < batch_size:
            raise InputError(
                f"{name}: {self.samples} images are fewer than one batch; use batch_size={self.samples} or less"
            )
        self.name = name
        self.identity = hashlib.sha256(pixels.contiguous().numpy().data).hexdigest()
        self.seen = 0
        self.work_seconds: dict[str, float] = {}
        self.views = [view for view in views.values() if view.count]
        self.batch_size = batch_size
        self.seed = seed
        self.device = world.device
        share = batch_size // world.size
        self.share = slice(world.rank * share, (world.rank + 1) * share)
        self.planes = pixels.to(world.device).permute(0, 3, 1, 2).contiguous()
        self.scale = 1 / (255 * torch.tensor(std, device=world.device).view(3, 1, 1))
        self.shift = (-torch.tensor(mean) / torch.tensor(std)).to(world.device).view(3, 1, 1)
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def iterate(self, start: int, stop: int, skipped: Collection[int] = ()) -> Iterator[Views]:
        for step in range(start, stop):
            if step not in skipped:
                ids = self.ids(step)
                self.seen = (self.seen + int(fingerprint(step, ids).sum())) % MODULUS
                yield self.crops(ids, step)

    def survey(self, epoch: int) -> Iterator[Views]:
        order = self.order(epoch)
        for start in range(0, self.samples, self.batch_size):
            places = np.arange(start, start + self.batch_size) % self.samples
            yield self.crops(order[places][self.share], epoch * self.samples + start)

    def ids(self, step: int) -> np.ndarray:
        """This rank's images of a step, `(B,)` int64; the steps' batches lie end to end over the
        epochs.
        """
        pieces = []
        start = step * self.batch_size
        missing = self.batch_size
        while missing:
            epoch, first = divmod(start, self.samples)
            piece = self.order(epoch)[first : first + missing]
            pieces.append(piece)
            start += len(piece)
            missing -= len(piece)
        return np.concatenate(pieces)[self.share]

    def order(self, epoch: int) -> np.ndarray:
        """All images in the order of an epoch, `(N,)` int64."""
        if epoch != self._epoch:
            keys = mix(self.seed, IMAGES, epoch, np.arange(self.samples))
            self._order = np.argsort(keys, kind="stable")
            self._epoch = epoch
        return self._order

    def crops(self, ids: np.ndarray, step: int) -> Views:
        """The crops of images `ids`, as a step draws them."""
        generator = torch.Generator(self.device)
        generator.manual_seed(int(mix(self.seed, CROPS, step) >> np.uint64(1)))
        order = ORDERS[int(mix(self.seed, JITTERS, step) % np.uint64(len(ORDERS)))]
        index = torch.from_numpy(ids).to(self.device, non_blocking=True)
        images = self.planes[index]
        groups: dict[int, list[Tensor]] = {}
        for view in self.views:
            shape = (view.count, self.batch_size, UNIFORMS)
            # Of the whole batch on every rank: what is drawn does not depend on how many there are.
            u = torch.rand(shape, generator=generator, device=self.device, dtype=torch.float64)
            crops = cut_and_colour(images, view, u[:, self.share].flatten(0, 1), order)
            crops = crops.mul_(self.scale).add_(self.shift)
            groups.setdefault(view.size, []).append(crops)
        made = [torch.cat(groups[size]) for size in sorted(groups, reverse=True)]
        laid_out = [crops.contiguous(memory_format=torch.channels_last) for crops in made]
        return Views(tuple(crops.unflatten(0, (-1, len(ids))) for crops in laid_out), index)


@torch.no_grad()
def cut_and_colour(images: Tensor, view: View, u: Tensor, order: Sequence[Op]) -> Tensor:
    """Crops of one kind: `(B, 3, H, W)` uint8 to `(V·B, 3, S, S)` float32 levels; row v·B + b is
    crop v of image b.

    Args:
        u: `(V·B, UNIFORMS)` float64 in [0, 1), laid out as `seer.data.crops.draws` says.
        order: of the operations of the jitter.
    """
    height, width = images.shape[2:]
    boxes = draw_boxes(view, height, width, u)
    crops = resized_crops(images, boxes, view.size)
    coloured = recolour(crops.flatten(2), view, u.to(torch.float32), order)
    return coloured.view_as(crops)


def draw_boxes(view: View, height: int, width: int, u: Tensor) -> Boxes:
    """`RandomResizedCrop` and a flip for images of one shape: `draws.draw_boxes`, on any device."""
    low, high = view.scale
    area = height * width * (low + (high - low) * u[:, AREA])
    narrowest, widest = np.log(view.ratio).tolist()
    ratio = (narrowest + (widest - narrowest) * u[:, RATIO]).exp()
    heights = (area / ratio).sqrt().round()
    widths = (area * ratio).sqrt().round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    # Where none of the attempts fits the image, its centre counts: the last column.
    central_height = min(height, max(1, round(width / view.ratio[0])))
    central_width = min(width, max(1, round(height * view.ratio[1])))
    heights = torch.nn.functional.pad(heights, (0, 1), value=central_height)
    widths = torch.nn.functional.pad(widths, (0, 1), value=central_width)
    none_fits = ~fits.any(1)
    first = torch.where(none_fits, ATTEMPTS, fits.int().argmax(1))[:, None]
    box_height = heights.gather(1, first)[:, 0]
    box_width = widths.gather(1, first)[:, 0]
    top = (u[:, TOP] * (height - box_height + 1)).floor()
    left = (u[:, LEFT] * (width - box_width + 1)).floor()
    top = torch.where(none_fits, (height - central_height) // 2, top)
    left = torch.where(none_fits, (width - central_width) // 2, left)
    return Boxes(top, left, box_height, box_width, u[:, FLIP] < view.flip)


def resized_crops(images: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Boxes of `(B, 3, H, W)` images as `(V·B, 3, size, size)` float32: antialiased bilinear, as
    Pillow's.

    Resizing is linear along each axis, so a crop is its image between two matrices: cutting,
    shrinking and mirroring thousands of crops are two products.
    """
    height, width = images.shape[2:]
    rows = filters(boxes.top, boxes.height, size, height)
    columns = filters(boxes.left, boxes.width, size, width)
    columns = torch.where(boxes.flip[:, None, None], columns.flip(1), columns)
    per_image = (-1, len(images), 1, size)
    rows = rows.view(*per_image, height)
    columns = columns.view(*per_image, width)
    return (rows @ images.float() @ columns.mT).flatten(0, 1)


def whole(images: Tensor, size: int) -> Tensor:
    """Whole images `(B, H, W, 3)` uint8, their levels resized to squares of `size`; 0 leaves them."""
    if not size:
        return images
    height, width = images.shape[1:3]
    none = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    boxes = Boxes(none, none, none + height, none + width, none.bool())
    return resized_crops(images.permute(0, 3, 1, 2), boxes, size).permute(0, 2, 3, 1)


def filters(start: Tensor, length: Tensor, size: int, pixels: int) -> Tensor:
    """`(N, size, pixels)` float32 matrices that resize the pixels from `start` on, `(N,)`, as many
    as `length` `(N,)`, to `size`: triangles as wide as a pixel of the larger of both grids.
    """
    start = start[:, None, None]
    length = length[:, None, None]
    scale = length / size
    centre = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    place = torch.arange(pixels, device=start.device) + 0.5
    weights = (1 - (place - centre).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (place > start) & (place < start + length)
    return (weights / weights.sum(-1, keepdim=True)).float()


def recolour(planes: Tensor, view: View, u: Tensor, order: Sequence[Op]) -> Tensor:
    """Jitter, then grey, of `(N, 3, P)` levels in [0, 255], each crop by its own row of `u` `(N,
    UNIFORMS)`.
    """
    jittered = u[:, JITTER] < view.jitter
    strengths = (view.brightness, view.contrast, view.saturation, view.hue)
    drawn = dict(zip(Op, u[:, FACTORS].unbind(1), strict=True))
    for op in order:
        strength = strengths[op]
        if not (strength and view.jitter):
            continue
        identity = float(IDENTITY[op])
        low = identity - strength if op == Op.HUE else max(0.0, identity - strength)
        factor = low + (identity + strength - low) * drawn[Op(op)]
        factor = torch.where(jittered, factor, identity)[:, None, None]
        if op == Op.HUE:
            planes = rotate_hues(planes, factor)
        else:
            blend_batch(
                planes,
                factor,
                (1 - factor) * (op == Op.SATURATION),
                (1 - factor) * (op == Op.CONTRAST),
            )
    if view.grey:
        grey = (u[:, GREY] < view.grey)[:, None, None]
        planes = torch.where(grey, luma(planes), planes)
    return planes
