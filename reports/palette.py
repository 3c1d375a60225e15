"""The colors of all figures: Okabe and Ito's (2008), told apart without color vision, and those of axes and ground."""

#: Name of a CSS variable to the color of the light page, which is also that of the file on its own.
COLORS = {
    "ink": "#1c1c1c",
    "faint": "#6f6f6f",
    "grid": "#e3e3e3",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#b3588f",
    "orange": "#c98500",
    "sky": "#4a9fd0",
    "empty": "#d4d4d4",
    "ground": "#ffffff",
}
WHITE = "#fffffe"  # stays white on a dark page
