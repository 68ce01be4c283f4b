"""Show figures in windows, and react to clicks."""

from collections.abc import Callable

import matplotlib.pyplot as plt

from util.errors import UserError

# Matplotlib's, in the order in which they are tried.
BACKENDS = ("MacOSX", "QtAgg", "TkAgg", "GTK4Agg", "GTK3Agg", "WxAgg")


def use_windows(option: str) -> None:
    """Make Matplotlib draw figures in windows from now on.

    Args:
        option: the option that asks for windows, for the error's text.

    Raises:
        UserError: there is no display, or no toolkit for windows.
    """
    for backend in BACKENDS:
        try:
            plt.switch_backend(backend)
            return
        except Exception:  # each toolkit raises its own kind of error
            continue
    raise UserError(
        f"{option}: no window can be opened here: there is no display, or neither tkinter nor "
        "PyQt6 is installed"
    )


def on_click(figure: plt.Figure, act: Callable[[float, float], None]) -> None:
    """Call act(x, y), in data coordinates, at each click on an image of a figure."""

    def clicked(event) -> None:
        if event.inaxes is not None and event.inaxes.get_images():
            act(event.xdata, event.ydata)
            figure.canvas.draw_idle()

    figure.canvas.mpl_connect("button_press_event", clicked)


def show_windows() -> None:
    """Show all figures, and return when their windows are closed."""
    plt.show()
