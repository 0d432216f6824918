"""Small data sets with boxes and masks."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 64


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, list[dict]]:
    """A dark picture with a bright square (class 1) and a disc (class 2), and their annotations."""
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    rows = []
    for category in (1, 2):
        size = int(rng.integers(14, 24))
        x = int(rng.integers(0, width - size))
        y = int(rng.integers(0, height - size))
        corners = [x, y, x + size, y, x + size, y + size, x, y + size]
        if category == 1:
            image[y : y + size, x : x + size] = (230, 40, 40)
        else:
            angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            centre = np.array([x, y]) + size / 2
            ring = centre + size / 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(image, [ring.round().astype(np.int32)], (40, 230, 40))
            corners = ring.reshape(-1).tolist()
        rows.append(
            {
                "category_id": category,
                "bbox": [x, y, size, size],
                "area": float(size * size),
                "iscrowd": 0,
                "segmentation": [corners],
            }
        )
    return image, rows


def coco(folder: Path, split: str, images: int, seed: int = 0) -> dict[str, Any]:
    """Write `split.json` and its pictures below `folder/split`, wide and tall ones in turn."""
    rng = np.random.default_rng(seed)
    (folder / split).mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}],
    }
    for i in range(images):
        height, width = (SIDE, SIDE * 3 // 2) if i % 2 else (SIDE * 3 // 2, SIDE)
        pixels, rows = scene(rng, height, width)
        name = f"{i}.png"
        cv2.imwrite(str(folder / split / name), pixels[:, :, ::-1])
        content["images"].append({"id": i, "file_name": name, "height": height, "width": width})
        for row in rows:
            row |= {"id": len(content["annotations"]), "image_id": i}
            content["annotations"].append(row)
    write(folder / f"{split}.json", content)
    return content


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def both(folder: Path, train: int = 8, test: int = 4) -> Path:
    """A data set of training and test images."""
    coco(folder, "train", train, 0)
    coco(folder, "val", test, 1)
    return folder
