"""The data sets of the papers that are reproduced: one entry each, from which everything else
follows.

Sources: Ericsson et al. 2021 (arXiv:2011.13377, the transfer benchmark), Goyal et al. 2021
(arXiv:2103.01988, SEER), Guo et al. 2020 (arXiv:1912.07200, cross-domain few-shot). Sizes and
layouts are those that the owners' archives are known by; whoever has an archive is told where it
differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seer.data.labelled import ImageSet
from seer.eval.data import nyu
from seer.eval.data.boxlayouts import both
from seer.eval.data.classfolders import ClassFolders
from seer.eval.data.corruptions import every_image
from seer.eval.data.csvlists import JsonLists, Tables, one_hot, only_one_of
from seer.eval.data.mapped import both as both_mapped
from seer.eval.data.matlists import AnnotatedImages, NumberedImages
from seer.eval.data.pickled import Batches
from seer.eval.data.rows import Lists, before_number, folder_of, words_after
from seer.eval.data.several import ClassLists

# What is known of an image, and so which tasks can run.
ONE_CLASS = "one class for each image"
SEVERAL_CLASSES = "several classes for each image"
BOXES = "boxes"
MASKS = "masks"
NORMALS = "surface normals"
VARIANT = "test images of ImageNet's classes alone"

TOP1 = "top1"
PER_CLASS = "mean_per_class"
MAP11 = "map11"
WITHIN = "within_11.25"  # degrees

WHOLE = ""  # the split of data that their owners do not split

MANY_SHOT = "many-shot"
FEW_SHOT = "few-shot"
CROSS_DOMAIN = "cross-domain few-shot"
DENSE = "detection, segmentation, normals"
LARGE = "ImageNet, Places205, iNaturalist18"
ROBUSTNESS = "robustness"
SUITES = (LARGE, MANY_SHOT, FEW_SHOT, CROSS_DOMAIN, DENSE, ROBUSTNESS)

Reader = Callable[[Path], Mapping[str, ImageSet]]


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        sizes: images of each split, `WHOLE` where the owners give none. Where labels of the test images are not
            public, `test` is what the owners call validation.
        metric: what the papers report.
        source: how its owner distributes it: archives or files by name.
        folders: where it may lie below the folder that is named, as archives and torchvision unpack it.
        marks: files and folders (with `/`) that tell it from others; `a|b` is either.
        needs: what must be there besides.
        read: its images by split; None where no task here reads it yet.
        per_class: training images of each class, where the papers draw them at random.
        suites: in which of the papers' suites it is.
    """

    name: str
    title: str
    classes: int
    sizes: Mapping[str, int]
    metric: str
    licence: str
    source: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]
    needs: tuple[str, ...] = ()
    read: Reader | None = None
    kind: str = ONE_CLASS
    per_class: int = 0
    suites: tuple[str, ...] = (MANY_SHOT, FEW_SHOT)


RESEARCH = "non-commercial research"
UNSTATED = "none stated"

CIFAR_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
ISIC = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
# The seven that the cross-domain benchmark keeps, of images with a single finding.
CHEST = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax",
)  # fmt: skip
PLACES = "trainvalsplit_places205/{}_places205.csv"
PLACES_IMAGES = "data/vision/torralba/deeplearning/images256"
ISIC_TABLE = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"

ENTRIES = [
    DataSet(
        "imagenet",
        "ImageNet (ILSVRC 2012)",
        1000,
        {"train": 1_281_167, "test": 50_000},
        TOP1,
        f"{RESEARCH} and education, by agreement",
        "image-net.org: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, both sorted into class folders "
        "(train/n01440764/, val/n01440764/)",
        ("", "imagenet", "ILSVRC/Data/CLS-LOC"),
        ("train/n01440764/",),
        ("val/n01440764/",),
        ClassFolders({"train": "train", "test": "val"}),
        suites=(LARGE,),
    ),
    DataSet(
        "places205",
        "Places205",
        205,
        {"train": 2_448_873, "test": 20_500},
        TOP1,
        f"{RESEARCH} and education",
        "places.csail.mit.edu: imagesPlaces205_resize.tar.gz and trainvalsplit_places205.tar.gz",
        ("", "places205"),
        (PLACES.format("train"),),
        (PLACES.format("val"), f"{PLACES_IMAGES}/"),
        Lists(
            {"train": PLACES.format("train"), "test": PLACES.format("val")},
            f"{PLACES_IMAGES}/{{}}",
            folder_of,
        ),
        suites=(LARGE,),
    ),
    DataSet(
        "inat18",
        "iNaturalist 2018",
        8142,
        {"train": 437_513, "test": 24_426},
        TOP1,
        f"{RESEARCH} and education",
        "github.com/visipedia/inat_comp: train_val2018.tar.gz, train2018.json.tar.gz, val2018.json.tar.gz",
        ("", "inaturalist18", "inat2018"),
        ("train2018.json",),
        ("val2018.json", "train_val2018/"),
        JsonLists({"train": "train2018.json", "test": "val2018.json"}),
        suites=(LARGE,),
    ),
    DataSet(
        "food101",
        "Food-101",
        101,
        {"train": 75_750, "test": 25_250},
        TOP1,
        "of the photographs' owners; scientific fair use",
        "food-101.tar.gz of ETH Zürich",
        ("", "food-101"),
        ("meta/train.txt", "images/"),
        ("meta/test.txt",),
        Lists({"train": "meta/train.txt", "test": "meta/test.txt"}, "images/{}.jpg", folder_of),
    ),
    DataSet(
        "cifar10",
        "CIFAR-10",
        10,
        {"train": 50_000, "test": 10_000},
        TOP1,
        UNSTATED,
        "cs.toronto.edu/~kriz: cifar-10-python.tar.gz or cifar-10-binary.tar.gz",
        ("", "cifar-10-batches-py", "cifar-10-batches-bin"),
        ("data_batch_1|data_batch_1.bin", "batches.meta|batches.meta.txt"),
        tuple(f"{name}|{name}.bin" for name in (*CIFAR_BATCHES, "test_batch")),
        Batches(
            {"train": CIFAR_BATCHES, "test": ("test_batch",)},
            "labels",
            ("batches.meta", "label_names"),
            "batches.meta.txt",
            label_bytes=1,
        ),
    ),
    DataSet(
        "cifar100",
        "CIFAR-100",
        100,
        {"train": 50_000, "test": 10_000},
        TOP1,
        UNSTATED,
        "cs.toronto.edu/~kriz: cifar-100-python.tar.gz or cifar-100-binary.tar.gz",
        ("", "cifar-100-python", "cifar-100-binary"),
        ("train|train.bin", "meta|fine_label_names.txt"),
        ("test|test.bin",),
        Batches(
            {"train": ("train",), "test": ("test",)},
            "fine_labels",
            ("meta", "fine_label_names"),
            "fine_label_names.txt",
            label_bytes=2,
        ),
    ),
    DataSet(
        "sun397",
        "SUN397, partition 1",
        397,
        {"train": 19_850, "test": 19_850},
        TOP1,
        f"{RESEARCH}; of the photographs' owners",
        "vision.princeton.edu/projects/2010/SUN: SUN397.tar.gz, and Partitions.zip unpacked into SUN397/",
        ("", "SUN397"),
        ("ClassName.txt",),
        ("Training_01.txt", "Testing_01.txt"),
        Lists({"train": "Training_01.txt", "test": "Testing_01.txt"}, "{}", folder_of),
    ),
    DataSet(
        "cars",
        "Stanford Cars",
        196,
        {"train": 8_144, "test": 8_041},
        TOP1,
        RESEARCH,
        "ai.stanford.edu/~jkrause/cars: cars_train.tgz, cars_test.tgz, car_devkit.tgz, "
        "cars_test_annos_withlabels.mat",
        ("", "stanford_cars"),
        ("devkit/cars_train_annos.mat",),
        (
            "devkit/cars_meta.mat",
            "cars_test_annos_withlabels.mat|devkit/cars_test_annos_withlabels.mat",
            "cars_train/",
            "cars_test/",
        ),
        AnnotatedImages(
            {
                "train": (("devkit/cars_train_annos.mat",), "cars_train/{}"),
                "test": (
                    (
                        "cars_test_annos_withlabels.mat",
                        "devkit/cars_test_annos_withlabels.mat",
                    ),
                    "cars_test/{}",
                ),
            },
            ("devkit/cars_meta.mat", "class_names"),
        ),
    ),
    DataSet(
        "aircraft",
        "FGVC-Aircraft, variants",
        100,
        {"train": 3_334, "val": 3_333, "test": 3_333},
        PER_CLASS,
        RESEARCH,
        "robots.ox.ac.uk/~vgg/data/fgvc-aircraft: fgvc-aircraft-2013b.tar.gz",
        ("", "fgvc-aircraft-2013b"),
        ("data/images_variant_train.txt",),
        ("data/images_variant_val.txt", "data/images_variant_test.txt", "data/images/"),
        Lists(
            {split: f"data/images_variant_{split}.txt" for split in ("train", "val", "test")},
            "data/images/{}.jpg",
            words_after,
        ),
    ),
    DataSet(
        "voc07",
        "PASCAL VOC 2007, classification",
        20,
        {"train": 2_501, "val": 2_510, "test": 4_952},
        MAP11,
        "Flickr's terms; of the photographs' owners",
        "host.robots.ox.ac.uk/pascal/VOC: VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar",
        ("", "VOC2007", "VOCdevkit/VOC2007"),
        ("ImageSets/Main/aeroplane_test.txt", "JPEGImages/"),
        ("ImageSets/Main/aeroplane_train.txt", "ImageSets/Main/aeroplane_val.txt"),
        ClassLists(("train", "val", "test")),
        kind=SEVERAL_CLASSES,
        suites=(MANY_SHOT,),
    ),
    DataSet(
        "dtd",
        "Describable Textures (DTD), split 1",
        47,
        {"train": 1_880, "val": 1_880, "test": 1_880},
        TOP1,
        RESEARCH,
        "robots.ox.ac.uk/~vgg/data/dtd: dtd-r1.0.1.tar.gz",
        ("", "dtd", "dtd/dtd"),
        ("labels/train1.txt",),
        ("labels/val1.txt", "labels/test1.txt", "images/"),
        Lists(
            {split: f"labels/{split}1.txt" for split in ("train", "val", "test")},
            "images/{}",
            folder_of,
        ),
    ),
    DataSet(
        "pets",
        "Oxford-IIIT Pets",
        37,
        {"train": 3_680, "test": 3_669},
        PER_CLASS,
        "CC BY-SA 4.0",
        "robots.ox.ac.uk/~vgg/data/pets: images.tar.gz and annotations.tar.gz",
        ("", "oxford-iiit-pet"),
        ("annotations/trainval.txt", "annotations/test.txt"),
        ("images/",),
        Lists(
            {"train": "annotations/trainval.txt", "test": "annotations/test.txt"},
            "images/{}.jpg",
            before_number,
        ),
    ),
    DataSet(
        "caltech101",
        "Caltech-101",
        102,  # the background is one, as in the transfer benchmark
        {WHOLE: 9_144},
        PER_CLASS,
        "CC BY 4.0",
        "data.caltech.edu: caltech-101.zip with 101_ObjectCategories.tar.gz",
        (
            "",
            "101_ObjectCategories",
            "caltech101/101_ObjectCategories",
            "caltech-101/101_ObjectCategories",
        ),
        ("accordion/", "yin_yang/"),
        ("BACKGROUND_Google/",),
        ClassFolders({WHOLE: "."}),
        per_class=30,
    ),
    DataSet(
        "flowers102",
        "Oxford Flowers 102",
        102,
        {"train": 1_020, "val": 1_020, "test": 6_149},
        PER_CLASS,
        UNSTATED,
        "robots.ox.ac.uk/~vgg/data/flowers/102: 102flowers.tgz, imagelabels.mat, setid.mat",
        ("", "flowers-102", "102flowers"),
        ("imagelabels.mat", "setid.mat"),
        ("jpg/",),
        NumberedImages(
            "jpg/image_{:05d}.jpg",
            ("imagelabels.mat", "labels"),
            {
                "train": ("setid.mat", "trnid"),
                "val": ("setid.mat", "valid"),
                "test": ("setid.mat", "tstid"),
            },
        ),
    ),
    DataSet(
        "cropdiseases",
        "CropDiseases (PlantVillage)",
        38,
        {"train": 43_456, "test": 10_849},
        TOP1,
        UNSTATED,
        "kaggle.com/saroz014/plant-disease: dataset/train/ and dataset/test/",
        ("", "dataset", "plant-disease/dataset"),
        ("train/Apple___Apple_scab/",),
        ("test/Apple___Apple_scab/",),
        ClassFolders({"train": "train", "test": "test"}),
        suites=(CROSS_DOMAIN,),
    ),
    DataSet(
        "eurosat",
        "EuroSAT, RGB",
        10,
        {WHOLE: 27_000},
        TOP1,
        "MIT",
        "github.com/phelber/EuroSAT: EuroSAT.zip (2750/) or EuroSAT_RGB.zip",
        ("", "2750", "eurosat/2750", "EuroSAT/2750", "EuroSAT_RGB"),
        ("AnnualCrop/", "SeaLake/"),
        (),
        ClassFolders({WHOLE: "."}),
        suites=(CROSS_DOMAIN,),
    ),
    DataSet(
        "isic",
        "ISIC 2018, task 3",
        7,
        {WHOLE: 10_015},
        TOP1,
        "CC BY-NC 4.0",
        "challenge.isic-archive.com: ISIC2018_Task3_Training_Input.zip and "
        "ISIC2018_Task3_Training_GroundTruth.zip",
        ("", "ISIC", "isic2018"),
        (ISIC_TABLE,),
        ("ISIC2018_Task3_Training_Input/",),
        Tables(
            ISIC_TABLE,
            ("image", *ISIC),
            one_hot(ISIC, "image", "ISIC2018_Task3_Training_Input/{}.jpg"),
        ),
        suites=(CROSS_DOMAIN,),
    ),
    DataSet(
        "chestx",
        "ChestX-ray8, images of one of seven findings",
        7,
        {WHOLE: 25_847},
        TOP1,
        "no restrictions; the NIH asks to be named",
        "nihcc.app.box.com/v/ChestXray-NIHCC: images_01.tar.gz … images_12.tar.gz, Data_Entry_2017.csv",
        ("", "chestX", "ChestX"),
        ("Data_Entry_2017.csv",),
        ("images/",),
        Tables(
            "Data_Entry_2017.csv",
            ("Image Index", "Finding Labels"),
            only_one_of(CHEST, "Image Index", "Finding Labels", "images/{}"),
        ),
        suites=(CROSS_DOMAIN,),
    ),
    DataSet(
        "voc07-12-boxes",
        "PASCAL VOC 2007 and 2012, detection",
        20,
        {"train": 16_551, "test": 4_952},
        "AP, AP50",
        "Flickr's terms; of the photographs' owners",
        "host.robots.ox.ac.uk/pascal/VOC: VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar, "
        "VOCtrainval_11-May-2012.tar",
        ("", "VOCdevkit"),
        ("VOC2012/ImageSets/Main/trainval.txt", "VOC2012/Annotations/"),
        (
            "VOC2007/ImageSets/Main/trainval.txt",
            "VOC2007/ImageSets/Main/test.txt",
            "VOC2007/Annotations/",
            "VOC2007/JPEGImages/",
            "VOC2012/JPEGImages/",
        ),
        both,
        kind=BOXES,
        suites=(DENSE,),
    ),
    DataSet(
        "coco",
        "COCO 2017",
        80,
        {"train": 118_287, "test": 5_000},
        "AP of boxes and masks",
        "annotations CC BY 4.0; photographs by Flickr's terms",
        "cocodataset.org: train2017.zip, val2017.zip, annotations_trainval2017.zip",
        ("", "coco", "coco2017"),
        ("annotations/instances_train2017.json",),
        ("annotations/instances_val2017.json", "train2017/", "val2017/"),
        both,
        kind=BOXES,
        suites=(DENSE,),
    ),
    DataSet(
        "ade20k",
        "ADE20K, scene parsing",
        150,
        {"train": 20_210, "test": 2_000},
        "mIoU",
        f"BSD-3 for annotations; photographs for {RESEARCH}",
        "data.csail.mit.edu/places/ADEchallenge: ADEChallengeData2016.zip",
        ("", "ADEChallengeData2016"),
        ("annotations/training/", "images/training/"),
        ("annotations/validation/", "images/validation/"),
        both_mapped,
        kind=MASKS,
        suites=(DENSE,),
    ),
    DataSet(
        "voc12-masks",
        "PASCAL VOC 2012, segmentation",
        21,
        {"train": 1_464, "test": 1_449},
        "mIoU",
        "Flickr's terms; of the photographs' owners",
        "host.robots.ox.ac.uk/pascal/VOC: VOCtrainval_11-May-2012.tar",
        ("", "VOC2012", "VOCdevkit/VOC2012"),
        ("SegmentationClass/2007_000032.png", "ImageSets/Segmentation/train.txt"),
        ("ImageSets/Segmentation/val.txt", "JPEGImages/"),
        both_mapped,
        kind=MASKS,
        suites=(),
    ),
    DataSet(
        "cityscapes",
        "Cityscapes, fine annotations",
        19,
        {"train": 2_975, "test": 500},
        "mIoU",
        "to be asked for; not for commercial use",
        "cityscapes-dataset.com: leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip",
        ("", "cityscapes"),
        ("gtFine/train/", "leftImg8bit/train/"),
        ("gtFine/val/", "leftImg8bit/val/"),
        both_mapped,
        kind=MASKS,
        suites=(),
    ),
    DataSet(
        "nyuv2",
        "NYU Depth V2, labelled frames",
        0,
        {"train": 795, "test": 654},
        WITHIN,
        UNSTATED,
        "cs.nyu.edu/~silberman/datasets: nyu_depth_v2_labeled.mat and splits.mat; the normals of its papers: "
        "inf.ethz.ch/personal/ladickyl: nyu_normals_gt.zip",
        ("", "nyuv2"),
        ("nyu_depth_v2_labeled.mat",),
        ("splits.mat",),
        nyu.both,
        kind=NORMALS,
        suites=(DENSE,),
    ),
    DataSet(
        "imagenetv2",
        "ImageNet-V2, matched frequency",
        1000,
        {"test": 10_000},
        TOP1,
        "MIT",
        "github.com/modestyachts/ImageNetV2: imagenetv2-matched-frequency.tar.gz",
        ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
        ("0/|n01440764/",),
        ("1/|n01443537/",),
        ClassFolders({"test": "."}),
        kind=VARIANT,
        suites=(ROBUSTNESS,),
    ),
    DataSet(
        "imagenet-r",
        "ImageNet-R (renditions)",
        200,
        {"test": 30_000},
        TOP1,
        "MIT",
        "github.com/hendrycks/imagenet-r: imagenet-r.tar",
        ("imagenet-r",),
        ("n01443537/",),
        (),
        ClassFolders({"test": "."}),
        kind=VARIANT,
        suites=(ROBUSTNESS,),
    ),
    DataSet(
        "imagenet-sketch",
        "ImageNet-Sketch",
        1000,
        {"test": 50_889},
        TOP1,
        UNSTATED,
        "github.com/HaohanWang/ImageNet-Sketch: ImageNet-Sketch.zip",
        (
            "sketch",
            "imagenet-sketch",
            "imagenet-sketch/sketch",
            "ImageNet-Sketch",
            "ImageNet-Sketch/sketch",
        ),
        ("n01440764/",),
        (),
        ClassFolders({"test": "."}),
        kind=VARIANT,
        suites=(ROBUSTNESS,),
    ),
    DataSet(
        "imagenet-a",
        "ImageNet-A (natural adversarial examples)",
        200,
        {"test": 7_500},
        TOP1,
        "MIT",
        "github.com/hendrycks/natural-adv-examples: imagenet-a.tar",
        ("imagenet-a",),
        ("n01498041/",),
        (),
        ClassFolders({"test": "."}),
        kind=VARIANT,
        suites=(ROBUSTNESS,),
    ),
    DataSet(
        "imagenet-c",
        "ImageNet-C, the fifteen corruptions of the mean corruption error",
        1000,
        {"test": 3_750_000},
        "mean corruption error",
        "CC BY 4.0",
        "zenodo.org/records/2235448: noise.tar, blur.tar, weather.tar, digital.tar, unpacked into one folder",
        ("", "imagenet-c", "ImageNet-C"),
        (
            "gaussian_noise/1/|noise/gaussian_noise/1/|defocus_blur/1/|blur/defocus_blur/1/|snow/1/|weather/snow/1/|"
            "contrast/1/|digital/contrast/1/",
        ),
        (),
        every_image,
        kind=VARIANT,
        suites=(ROBUSTNESS,),
    ),
    DataSet(
        "objectnet",
        "ObjectNet",
        313,
        {"test": 50_273},
        TOP1,
        "to test with, never to train on; with its red border",
        "objectnet.dev: objectnet-1.0.zip",
        ("", "objectnet-1.0", "objectnet"),
        ("mappings/folder_to_objectnet_label.json", "images/"),
        (
            "mappings/objectnet_to_imagenet_1k.json",
            "mappings/pytorch_to_imagenet_2012_id.json",
            "mappings/imagenet_to_label_2012_v2",
        ),
        ClassFolders({"test": "images"}),
        kind=VARIANT,
        suites=(ROBUSTNESS,),
    ),
]
DATASETS = {entry.name: entry for entry in ENTRIES}
