"""Which kinds of images are read, and what is said of the others."""

from functools import cache

from PIL import Image

from seer.data.decoding.limits import TIFF_MAGIC

# What is read. Pillow knows more: programs that it would run (EPS) or pass on (WMF), containers of
# other formats that say one size and hold another (ICO, ICNS), and what nobody publishes
# photographs in; each a reader to be attacked. TGA has no magic and is tried last.
FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "PPM",
    "DDS", "IM", "PCX", "QOI", "SGI", "TGA",
)  # fmt: skip

# Canon, Nikon, Sony, Fujifilm, Olympus, Panasonic, Pentax, Samsung, Hasselblad, Phase One, Sigma,
# Kodak, Minolta, Epson, Leica, and Adobe's DNG. Most are TIFFs, in which Pillow finds a thumbnail.
RAW_SUFFIXES = frozenset(
    (
        ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef",
        ".srw", ".3fr", ".fff", ".iiq", ".x3f", ".dcr", ".kdc", ".mrw", ".erf", ".rwl", ".dng",
    )
)  # fmt: skip
UNREAD = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),  # where Pillow was built without it
    **dict.fromkeys(RAW_SUFFIXES, "camera raw"),
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".psd": "PSD",
}
# Of files of boxes (ISO/IEC 14496-12; 23008-12, annex B): what stands behind `ftyp`.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
JPEG_XL_MAGIC = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case file name endings, with the dot, that may hold an image."""
    Image.preinit()  # first, or else Pillow asks the readers of rare formats before those of common ones
    known = Image.registered_extensions().items()
    return frozenset(ext for ext, name in known if name in FORMATS)


@cache
def unread_suffixes() -> frozenset[str]:
    """Lower-case file name endings, with the dot, of kinds of images that are not read."""
    return frozenset(UNREAD) - image_suffixes()


def not_read(kind: str) -> str:
    """The reason why an image of this kind is left out, with what to do."""
    return f"{kind} is not read; convert it to JPEG"


def why_not_read(data: bytes) -> str:
    """What these bytes are by their first few, where they are something that is not read."""
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        if accept is not None and name not in FORMATS and accept(data[:16]) is True:
            return f"{name} is not read"
    boxes = data[8:64] if data[4:8] == b"ftyp" else b""
    if boxes.startswith(HEIC_BRANDS) and b"avif" not in boxes:
        return not_read("HEIC")
    if data.startswith(JPEG_XL_MAGIC):
        return not_read("JPEG XL")
    if boxes.startswith((b"avif", b"avis")) and "AVIF" not in Image.OPEN:
        return not_read("AVIF")
    return "this kind of TIFF is not read" if data.startswith(TIFF_MAGIC) else "not an image"
