"""What the tables of hostile and broken inputs are made with."""


def case(table: dict, name: str, says: str):
    """Add a function that breaks something to a table, with what the answer has to contain."""

    def add(function):
        table[name] = (function, says)
        return function

    return add


def flip(place):
    def change(content):
        content[place(content)] ^= 4

    return change
