"""Metadata, dependencies, extras and the `seer` command. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "seer/__init__.py").read_text()).group(1)

EXTRAS = {
    "s3": ["s3fs>=2024.6"],
    "gcs": ["gcsfs>=2024.6"],
    "interop": ["timm>=1.0", "transformers>=5"],  # `timm:NAME`, and `--to` the same
    "browse": ["umap-learn>=0.5.9"],  # the map of `seer browse`; without it, main axes
    "detection": ["faster-coco-eval>=1.7"],  # `seer eval detect`
    "normals": ["h5py>=3.10"],  # NYUv2, which is HDF5, for `seer eval normals` and `depth`
    "onnx": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],  # `--to onnx`
}

setup(
    name="seer-pretrain",
    version=VERSION,
    description="Pretrain vision backbones on billions of uncurated images, and prove what they are worth",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["seer", "seer.*", "shards", "shards.*", "launch", "launch.*"]),
        "seer.configs",
    ],
    # Recipes live at the top of the repository and travel inside the package, so that a recipe's
    # name works anywhere.
    package_dir={"seer.configs": "configs"},
    package_data={
        "seer": ["py.typed", "*.pyi"],
        "seer.configs": ["*.yaml", "*/*.yaml", "*/*/*.csv"],
        "seer.browse": ["*.html.j2", "*.js"],
        "seer.report": ["*.html.j2"],
        "shards.report": ["*.html.j2"],
    },
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "numpy",
        "simplejpeg>=1.7",
        "opencv-python-headless>=4.10",
        "pillow>=10.3",
        "pyyaml>=6",
        "typer>=0.12",
        "rich>=13",
        "numba>=0.61",  # compiles the augmentation of crops; needs no C compiler
        "pyarrow>=15",
        "fsspec[http]>=2024.6",
        "aiohttp>=3.12",  # the first whose connector asks us for each socket, which is where addresses are checked
        "aiodns>=3.2",  # names of dead hosts are looked up without a thread for each
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "scikit-image>=0.24",  # with scikit-learn, also the photographs of `seer quickstart`
        "tensorboard>=2.16",
        "jinja2>=3.1",
        "submitit>=1.5",
        "markupsafe",
    ],
    extras_require={
        **EXTRAS,
        "dev": [
            *(requirement for extra in EXTRAS.values() for requirement in extra),
            "pytest>=8",
            "pytest-xdist>=3.7",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "lightly",
            "albumentations",  # with lightly, the peers of benchmarks/multicrop.py
            "webdataset",
            "pycocotools",  # whose values those of `seer eval detect` are
            "moto[s3,server]>=5",
            # With pycls, whose networks of the same weights compute the same as ours.
            "pycls",
            "fairscale>=0.4.13",
            "classy-vision>=0.7",
        ],
    },
    entry_points={"console_scripts": ["seer = seer.__main__:main"]},
)
