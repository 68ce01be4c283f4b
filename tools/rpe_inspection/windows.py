"""Figures in windows, which answer clicks."""

from collections.abc import Callable

import matplotlib.pyplot as plt

from util.errors import UserError

# In the order in which they are tried.
BACKENDS = ("MacOSX", "QtAgg", "TkAgg", "GTK4Agg", "GTK3Agg", "WxAgg")


def use_windows(option: str) -> None:
    """Have figures drawn in windows from now on.

    Args:
        option: that asks for them.

    Raises:
        UserError: there is no display, or no toolkit for windows.
    """
    for backend in BACKENDS:
        try:
            plt.switch_backend(backend)
            return
        except Exception:  # toolkits have errors of their own
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
    """Until all are closed."""
    plt.show()
