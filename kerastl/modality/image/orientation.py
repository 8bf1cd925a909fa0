"""Which way up an image is: the orientation that Exif or XMP data note, read and applied with TensorFlow operations.

Cameras and telephones store the sensor's pixels and note how to turn them; converters take the note along into PNG and
WebP. TensorFlow's decoder ignores it, so it is read here, in the graph: a served model has to turn a photograph just
as training did, and has no Python to do it with. As in Pillow, XMP counts where Exif has no orientation.
"""

from __future__ import annotations

import tensorflow as tf

from kerastl.modality.image.header import number, starts, substr

# A smaller JPEG is searched for Exif and XMP before its segments are gone through: 0.03 ms against 0.4 ms, and most
# images of a data set have neither. Of a larger one that walk is a small part of decoding it.
SMALL_BYTES = 1 << 17
# Bounds the walks over segments, fill bytes and chunks, whatever the bytes say. Real files have about ten; an ICC
# profile may take 255 segments, an animation a chunk for each frame.
STEPS_AT_MOST = 1024
ORIENTATION_TAG = 0x0112
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP, PNG_PROFILE = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
WEBP_EXIF_OR_XMP = 0x0C
# Texts of PNG may be compressed; of more than this they are not unpacked, as a thousand times as much may come out.
COMPRESSED_AT_MOST = 1 << 16
# Reads beyond the end meet these zeros, which no marker, tag or byte order consists of.
PADDING = b"\0" * 32


def jpeg_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """The turn that the pixels of a JPEG need, by tag 0x0112 (Exif 2.32, section 4.6.4) or `tiff:Orientation` of XMP.

    Only the first Exif segment counts, as in Pillow.

    Args:
        encoded: scalar string, the whole file. Anything is allowed: what is cut off, garbled or absent
            counts as upright.

    Returns:
        int32 scalar, 1..8; 1 is upright.
    """
    size = tf.strings.length(encoded)
    # Replacing, because it searches at memory speed; TensorFlow's matching is anchored and 10 times slower.
    without = tf.strings.regex_replace(
        substr(encoded, 0, SMALL_BYTES), r"Exif\x00\x00|http://ns\.adobe\.com/xap/", "", replace_global=False
    )
    present = (size > SMALL_BYTES) | (tf.strings.length(without) < size)
    return tf.cond(present, lambda: _of_segments(encoded), _upright)


def png_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """The same of a PNG, by its chunk eXIf, the text `Raw profile type exif` of ImageMagick, or XMP."""
    names = r"eXIf|XML:com\.adobe\.xmp|Raw profile type exif"
    without = tf.strings.regex_replace(encoded, names, "", replace_global=False)

    def read() -> tf.Tensor:
        chunks = [_behind(encoded, b"eXIf" + magic)[1] for magic in (b"II*\0", b"MM\0*", EXIF)]
        tiffs = [magic + rest for magic, rest in zip((b"II*\0", b"MM\0*", b""), chunks, strict=True)]
        found = [tf.strings.length(rest) > 0 for rest in chunks]
        choices = [lambda tiff=tiff: tf.io.decode_raw(tiff, tf.uint8) for tiff in tiffs]
        which = tf.argmax(tf.stack([*found, True]), output_type=tf.int32)
        tiff = tf.switch_case(which, [*choices, lambda: _profile(encoded)])
        return _first_given(_read_tag(tiff), _read_xmp(_text(encoded, PNG_XMP)))

    return tf.cond(tf.strings.length(without) < tf.strings.length(encoded), read, _upright)


def webp_orientation(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """The same of a WebP, by its chunks EXIF and XMP.

    Args:
        encoded: scalar string, the whole file.
        header: int64 [n], its first 21 bytes at least, zeros behind its end.
    """
    announced = starts(header[12:], b"VP8X") & (tf.bitwise.bitwise_and(header[20], WEBP_EXIF_OR_XMP) > 0)
    size = tf.strings.length(encoded)

    def going(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
        return at < size

    def step(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        name = substr(encoded, at, 4)
        window = tf.io.decode_raw(tf.strings.join([substr(encoded, at + 4, 4), PADDING]), tf.uint8)
        length = number(tf.cast(window, tf.int64), 0, 4)
        content = substr(encoded, tf.cast(at + 8, tf.int64), length)
        # Chunks begin at even places.
        behind = tf.cast(at, tf.int64) + 8 + length + length % 2
        at = tf.cast(tf.minimum(behind, tf.cast(size, tf.int64)), tf.int32)
        return at, tf.where(name == b"EXIF", content, exif), tf.where(name == b"XMP ", content, xmp)

    def read() -> tf.Tensor:
        state = (tf.constant(12), tf.constant(b""), tf.constant(b""))
        _, exif, xmp = tf.while_loop(going, step, state, maximum_iterations=STEPS_AT_MOST)
        tiff = tf.strings.regex_replace(exif, r"^Exif\x00\x00", "")
        return _first_given(_read_tag(tf.io.decode_raw(tiff, tf.uint8)), _read_xmp(xmp))

    return tf.cond(announced, read, _upright)


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn pixels as an orientation asks.

    Args:
        pixels: [height, width, channels].
        orientation: int32 scalar, 1..8.

    Returns:
        The turned pixels; for 5..8 height and width change places.
    """

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        rows = tf.reduce_any(orientation == tf.constant([3, 4, 7, 8]))
        columns = tf.reduce_any(orientation == tf.constant([2, 3, 6, 7]))
        turned = tf.cond(rows, lambda: tf.reverse(turned, [0]), lambda: turned)
        return tf.cond(columns, lambda: tf.reverse(turned, [1]), lambda: turned)

    return tf.cond(orientation > 1, turn, lambda: pixels)


def _upright() -> tf.Tensor:
    return tf.constant(1, tf.int32)


def _first_given(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """int32 1..8 of two orientations; 0 where there is none."""
    return tf.where(exif > 0, exif, tf.maximum(xmp, 1))


def _behind(encoded: tf.Tensor, magic: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits at the first occurrence of some bytes; without one the second part is empty."""
    parts = tf.raw_ops.StringSplitV2(input=encoded[tf.newaxis], sep=magic, maxsplit=1).values
    parts = tf.concat([parts, [b"", b""]], 0)
    return parts[0], parts[1]


def _text(encoded: tf.Tensor, keyword: bytes) -> tf.Tensor:
    """A PNG's text of this keyword; empty where there is none, or too long a compressed one."""
    before, behind = _behind(encoded, keyword)
    frame = tf.io.decode_raw(
        tf.strings.join([substr(before, tf.strings.length(before) - 8, 8), PADDING]), tf.uint8
    )
    frame = tf.cast(frame, tf.int64)
    text = substr(behind, 0, number(frame, 0, 4, big_endian=True) - len(keyword))
    first = tf.cast(tf.io.decode_raw(tf.strings.join([text, PADDING]), tf.uint8)[0], tf.int32)
    is_international = starts(frame[4:], b"iTXt")
    is_compressed = starts(frame[4:], b"zTXt") | (is_international & (first == 1))
    # A keyword is followed by a method; in iTXt by flag, method, language and translated keyword.
    packed = tf.cond(
        is_international,
        lambda: _behind(_behind(substr(text, 2, COMPRESSED_AT_MOST), b"\0")[1], b"\0")[1],
        lambda: substr(text, 1, COMPRESSED_AT_MOST),
    )
    unpacked = tf.cond(
        is_compressed & (tf.strings.length(text) <= COMPRESSED_AT_MOST),
        lambda: tf.io.decode_compressed(packed, "ZLIB"),
        lambda: tf.constant(b""),
    )
    return tf.where(is_compressed, unpacked, text)


def _profile(encoded: tf.Tensor) -> tf.Tensor:
    """The Exif data (uint8 [n]) that ImageMagick writes into a PNG as hexadecimal digits behind three lines."""
    lines = tf.raw_ops.StringSplitV2(
        input=_text(encoded, PNG_PROFILE)[tf.newaxis], sep=b"\n", maxsplit=-1
    ).values
    digits = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(lines[3:]), tf.uint8), tf.int32)
    values = tf.where(digits > 0x60, digits - 0x57, tf.where(digits > 0x40, digits - 0x37, digits - 0x30))
    pairs = tf.reshape(values[: tf.size(values) // 2 * 2], [-1, 2])
    tiff = tf.cast(pairs[:, 0] * 16 + pairs[:, 1], tf.uint8)
    padded = tf.concat([tiff, tf.zeros([len(EXIF)], tf.uint8)], 0)
    has_prefix = tf.reduce_all(padded[: len(EXIF)] == tf.constant(list(EXIF), tf.uint8))
    return tf.cond(has_prefix, lambda: tiff[len(EXIF) :], lambda: tiff)


def _read_xmp(xmp: tf.Tensor) -> tf.Tensor:
    """The orientation that an XMP packet notes, int32 0..8; 0 where there is none."""
    # Both ways to write it become one separator that no text contains.
    marked = tf.strings.regex_replace(xmp, r'tiff:Orientation(?:="|>)', "\1\2", replace_global=False)
    digit = tf.io.decode_raw(tf.strings.join([_behind(marked, b"\1\2")[1], b"\0"]), tf.uint8)[0]
    value = tf.cast(digit, tf.int32) - 0x30
    return tf.where((value >= 1) & (value <= 8), value, 0)


def _of_segments(encoded: tf.Tensor) -> tf.Tensor:
    """The orientation in a JPEG's Exif or XMP segment, found by going from segment to segment."""
    data = tf.io.decode_raw(tf.strings.join([encoded, PADDING]), tf.uint8)
    last = tf.size(data) - len(PADDING)
    State = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]

    def going(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        return tf.logical_not(stop)

    def step(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor, stop: tf.Tensor) -> State:
        # No position passes `last`, where zeros are read, and zeros stop the walk.
        at = tf.minimum(at, last)
        window = tf.cast(data[at : at + 4 + len(XMP)], tf.int64)
        marker = tf.cast(window[1], tf.int32)
        length = tf.cast(number(window, 2, 2, big_endian=True), tf.int32)
        is_fill = marker == 0xFF
        is_bare = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD7))
        is_end = (window[0] != 0xFF) | (marker == 0xDA) | (marker == 0xD9)
        is_broken = ~is_fill & ~is_bare & (length < 2)
        is_app1 = (marker == 0xE1) & ~is_end & ~is_broken
        exif = tf.where(is_app1 & starts(window[4:], EXIF) & (exif == 0), at, exif)
        xmp = tf.where(is_app1 & starts(window[4:], XMP), at, xmp)
        advance = tf.where(is_fill, 1, tf.where(is_bare, 2, 2 + length))
        stop = is_end | is_broken
        return tf.where(stop, at, at + advance), exif, xmp, stop

    state = (tf.constant(2), tf.constant(0), tf.constant(0), tf.constant(False))
    _, exif, xmp, _ = tf.while_loop(going, step, state, maximum_iterations=STEPS_AT_MOST)

    def content(at: tf.Tensor, magic: bytes) -> tf.Tensor:
        """Contents of the segment at this place behind its magic bytes; empty where there is none."""
        frame = tf.cast(data[at : at + 4], tf.int64)
        behind = at + 4 + len(magic)
        end = tf.minimum(at + 2 + tf.cast(number(frame, 2, 2, big_endian=True), tf.int32), last)
        return data[behind : tf.where(at > 0, tf.maximum(end, behind), behind)]

    packet = tf.strings.substr(encoded, 0, 0)
    packet = tf.cond(
        xmp > 0, lambda: substr(encoded, xmp + 4 + len(XMP), tf.size(content(xmp, XMP))), lambda: packet
    )
    return _first_given(_read_tag(content(exif, EXIF)), _read_xmp(packet))


def _read_tag(tiff: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory of a TIFF structure (uint8 [n]), int32 1..8; 0 where there is none."""
    size = tf.size(tiff, tf.int64)
    data = tf.cast(tf.concat([tiff, tf.zeros([16], tf.uint8)], 0), tf.int64)
    is_little = tf.reduce_all(data[:4] == tf.constant([0x49, 0x49, 42, 0], tf.int64))
    is_big = tf.reduce_all(data[:4] == tf.constant([0x4D, 0x4D, 0, 42], tf.int64))
    short = tf.where(is_little, tf.constant([1, 256], tf.int64), tf.constant([256, 1], tf.int64))
    long = tf.where(
        is_little,
        tf.constant([1, 1 << 8, 1 << 16, 1 << 24], tf.int64),
        tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64),
    )
    directory = tf.minimum(tf.reduce_sum(data[4:8] * long), size)
    count = tf.reduce_sum(data[directory : directory + 2] * short)
    count = tf.minimum(count, tf.maximum(size - directory - 2, 0) // 12)
    entries = tf.reshape(data[directory + 2 : directory + 2 + 12 * count], [-1, 12])
    is_tag = tf.reduce_sum(entries[:, 0:2] * short, -1) == ORIENTATION_TAG
    is_long = tf.reduce_sum(entries[:, 2:4] * short, -1) == 4
    values = tf.where(
        is_long, tf.reduce_sum(entries[:, 8:12] * long, -1), tf.reduce_sum(entries[:, 8:10] * short, -1)
    )
    value = tf.reduce_max(tf.concat([tf.boolean_mask(values, is_tag), tf.constant([0], tf.int64)], 0))
    given = (is_little | is_big) & tf.reduce_any(is_tag)
    # A value that means nothing counts as upright, not as absent.
    value = tf.where((value >= 1) & (value <= 8), value, tf.constant(1, tf.int64))
    return tf.cast(tf.where(given, value, tf.constant(0, tf.int64)), tf.int32)
