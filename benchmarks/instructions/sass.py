"""Count the instructions that a program of a compiled GPU kernel executes, without running it.

A kernel is machine code (SASS) with loops and branches. `executed` follows its control flow with
given trip counts: a block of code counts as often as it runs.
"""

import re
from functools import cached_property

LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
LABEL = re.compile(r"^(\.L_[\w.$]+):")
TARGET = re.compile(r"`\((\.L_[\w.$]+)\)")
PRODUCT = re.compile(r"\b(HMMA|HGMMA|UTCHMMA|UTCQMMA)\b")


class ControlFlow:
    """Blocks of straight code and the edges between them, of `nvdisasm -c`'s text.

    Attributes:
        blocks: instructions of each block, in the order of the code.
        next: numbers of the blocks that may follow each.
    """

    def __init__(self, text: str):
        code, labels = [], {}
        for line in text.splitlines():
            if found := LABEL.match(line):
                labels[found[1]] = len(code)
            elif found := LINE.match(line):
                code.append(found[1])
        jumps = {i: labels.get(target) for i, line in enumerate(code) if (target := jump(line))}
        leaders = {0, *labels.values(), *(i + 1 for i, line in enumerate(code) if ends_block(line))}
        starts = sorted(i for i in leaders if i < len(code))
        number = {start: n for n, start in enumerate(starts)}
        self.blocks = [code[a:b] for a, b in zip(starts, [*starts[1:], len(code)], strict=True)]
        self.next = []
        for n, start in enumerate(starts):
            last = start + len(self.blocks[n]) - 1
            follows = [] if always_leaves(code[last]) or n + 1 == len(starts) else [n + 1]
            if last in jumps:
                follows.append(number[jumps[last]])
            self.next.append(list(dict.fromkeys(follows)))

    @cached_property
    def loops(self) -> dict[int, set[int]]:
        """The blocks of each loop, by its first block (its header)."""
        found: dict[int, set[int]] = {}
        dominators = self._dominators()
        before = [
            [a for a, after in enumerate(self.next) if b in after] for b in range(len(self.next))
        ]
        for block, after in enumerate(self.next):
            for header in after:
                if header in dominators[block]:
                    body, todo = found.setdefault(header, {header}), [block]
                    while todo:
                        inside = todo.pop()
                        if inside not in body:
                            body.add(inside)
                            todo += before[inside]
        return found

    def _dominators(self) -> list[set[int]]:
        everything = set(range(len(self.next)))
        dominators = [{0}] + [everything] * (len(self.next) - 1)
        reached, todo = {0}, [0]
        while todo:
            for after in self.next[todo.pop()]:
                if after not in reached:
                    reached.add(after)
                    todo.append(after)
        changed = True
        while changed:
            changed = False
            for block in sorted(reached - {0}):
                before = [a for a in reached if block in self.next[a]]
                now = {block} | set.intersection(*(dominators[a] for a in before))
                if now != dominators[block]:
                    dominators[block], changed = now, True
        return [d if b in reached else set() for b, d in enumerate(dominators)]

    def depth(self, block: int) -> int:
        """Return in how many loops the block lies."""
        return sum(block in body for body in self.loops.values())

    def times(self, trips: list[int], share: float) -> list[float]:
        """Return how often a program executes each block.

        Args:
            trips: iterations of a loop, of the outermost first.
            share: how often a branch inside of the innermost loop is taken that may be skipped;
                all other code that may be skipped is taken to run.
        """
        result = [0.0] * len(self.blocks)
        self._spread(0, set(range(len(self.blocks))), 0, 1.0, trips, share, result)
        return result

    def _spread(self, entry, region, depth, flow, trips, share, result) -> None:
        """Add to result how often the blocks of a region run that is entered `flow` times."""
        inner = {h: b for h, b in self.loops.items() if b < region or (b == region and h != entry)}
        inner = {h: b for h, b in inner.items() if not any(b < other for other in inner.values())}
        head = {block: header for header, body in inner.items() for block in body}

        def after(node: int) -> list[int]:
            """Return what follows within this pass through the region; a loop is one node."""
            body = inner.get(node, {node})
            ends = dict.fromkeys(
                b for block in sorted(body) for b in self.next[block] if b not in body
            )
            return list(dict.fromkeys(head.get(b, b) for b in ends if b in region and b != entry))

        order: list[int] = []

        def visit(node: int) -> None:
            for follower in after(node):
                if follower not in seen:
                    seen.add(follower)
                    visit(follower)
            order.insert(0, node)

        seen = {entry}
        visit(entry)
        reachable: dict[int, set[int]] = {}
        for node in reversed(order):
            reachable[node] = {node}.union(*(reachable[b] for b in after(node)))
        amount = dict.fromkeys(order, 0.0)
        amount[entry] = flow
        for node in order:
            if node in inner:
                count = trips[depth] if depth < len(trips) else 1
                self._spread(
                    node, inner[node], depth + 1, amount[node] * count, trips, share, result
                )
            else:
                result[node] += amount[node]
            followers = [b for b in after(node) if not self._only_exits(reachable[b], region)]
            followers = followers or after(node)
            if len(followers) == 2:
                one, two = sorted(followers, key=lambda b: len(reachable[b]))
                body = reachable[two] - reachable[one]  # may be skipped
                often = share if depth == len(trips) and not body & set(inner) else 1.0
                amount[two] += amount[node] * often
                amount[one] += amount[node] * (1 - often)
            else:
                for follower in followers:
                    amount[follower] += amount[node] / len(followers)

    def _only_exits(self, blocks: set[int], region: set[int]) -> bool:
        """Whether these blocks do no more than to leave the kernel early."""
        return 0 in region and all(len(self.blocks[b]) <= 2 and not self.next[b] for b in blocks)


def jump(line: str) -> str | None:
    """Return the label to which an instruction jumps; None if it does not, or nearly never."""
    # The assembler writes some jumps as calls that do not return.
    if not re.search(r"\b(BRA|CALL\.REL\.NOINC)\b", line) or "BRA.DIV" in line:
        return None
    found = TARGET.search(line)
    return found and found[1]


def ends_block(line: str) -> bool:
    return bool(re.search(r"\b(BRA|EXIT|RET|BRX|JMP)\b", line)) or jump(line) is not None


def always_leaves(line: str) -> bool:
    """Whether nothing after this instruction runs."""
    leaves = re.match(r"(BRA|EXIT|RET|BRX|JMP)\b", line) or jump(line) is not None
    return bool(leaves) and not re.match(r"@|BRA(\.\w+)* !?U?P\d", line)


def executed(text: str, trips: list[int], share: float = 1.0) -> dict[str, float]:
    """Count what a warp executes of a kernel, as disassembled by `nvdisasm -c`.

    Args:
        trips, share: see `ControlFlow.times`.

    Returns:
        Instructions, barriers, and loads of single table entries, of a warp.
    """
    flow = ControlFlow(text)
    times = flow.times(trips, share)

    def count(pattern: str) -> float:
        return sum(
            often * sum(bool(re.search(pattern, line)) for line in block)
            for often, block in zip(times, flow.blocks, strict=True)
        )

    return {
        "instructions": count(r"^(?!NOP)"),
        "barriers": count(r"\bBAR\."),
        "global_loads": count(r"\bLDG\."),
    }
