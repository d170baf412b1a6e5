"""The colors of every plot and page, named by what they stand for. No color has two meanings on one page.

The hues stay apart for color-blind readers: blue against red-orange, violet against ochre (after Okabe and Ito).
Pages replace each by a CSS variable of the same name, which has a second value for dark mode.
"""

INK, MUTED, GRID = "#1d2126", "#5b6570", "#e2e5e9"
BLUE, RED, GREEN, MAGENTA, VIOLET, OCHRE = "#0072b2", "#c2410c", "#00805e", "#a8447f", "#6f4ea8", "#a17000"

# One network: the split that is evaluated (validation or test) against training.
EVALUATION, TRAINING = BLUE, MUTED
# Predictions.
CORRECT, WRONG = BLUE, RED
# Several networks: a residual network and its plain twin are always this pair.
RESIDUAL, PLAIN = VIOLET, OCHRE
NETWORK_COLORS = (RESIDUAL, PLAIN, GREEN, MAGENTA)
# Values with a sign, such as attributions.
POSITIVE, NEGATIVE = GREEN, MAGENTA

CSS_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    BLUE: "blue",
    RED: "red",
    GREEN: "green",
    MAGENTA: "magenta",
    VIOLET: "violet",
    OCHRE: "ochre",
}


def network_color(index: int) -> str:
    """Return the color of the network at `index`; the colors repeat after the fourth."""
    return NETWORK_COLORS[index % len(NETWORK_COLORS)]
