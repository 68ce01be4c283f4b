"""A colour for each class, and the ink that can be read on it."""

Colour = tuple[int, int, int]  # red, green and blue, 0 to 255

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
# Of saturated colours each is the one farthest (in CIELAB) from those before it, so that few
# classes differ most.
COLOURS: tuple[Colour, ...] = (
    (217, 0, 22), (0, 255, 0), (0, 0, 255), (0, 178, 255), (106, 115, 23), (255, 51, 194),
    (0, 255, 204), (0, 50, 166), (255, 229, 0), (255, 153, 51), (166, 58, 101), (33, 166, 33),
    (115, 46, 0), (230, 0, 255), (255, 0, 102), (115, 0, 115), (0, 115, 57), (173, 255, 51),
    (156, 89, 255), (217, 189, 76), (89, 139, 255), (0, 255, 128), (217, 90, 76), (133, 166, 0),
)  # fmt: skip


def colour_of(label: int) -> Colour:
    """Return the colour of a class; labels that are 24 apart have the same one."""
    return COLOURS[label % len(COLOURS)]


def ink_on(colour: Colour) -> Colour:
    """Return black or white, whichever has more contrast (at least 4.5 : 1) with a colour."""
    # WCAG's contrast is (L1 + 0.05) / (L2 + 0.05): both inks have the same at this luminance.
    return BLACK if _luminance(colour) > (1.05 * 0.05) ** 0.5 - 0.05 else WHITE


def _luminance(colour: Colour) -> float:
    """Return the relative luminance of an sRGB colour, 0 to 1."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
