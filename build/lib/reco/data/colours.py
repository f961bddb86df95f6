"""Colours in pictures: those of Okabe and Ito, which the colour-blind can tell apart."""

import colorsys

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = PALETTE = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
GREY = "#999999"


def concept_colour(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a concept by its number: the palette, then further hues."""
    if number < len(PALETTE):
        code = PALETTE[number].removeprefix("#")
        return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)
    golden = 0.618034  # steps of the golden ratio never come near an earlier hue
    red, green, blue = colorsys.hsv_to_rgb(number * golden % 1, 0.55 + number % 3 * 0.2, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
