"""A chain of layers run depth-first, one row of pixels at a time: slow, and obvious.

Every row of the last tensor is asked for in turn; a layer asks for the rows of its input under its window, which are
computed (or fetched, for the first) when they are not there. A row is thrown away when no later window covers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Window:
    """One layer: heights in rows of pixels; `pad` rows of zeros above."""

    height: int
    stride: int
    pad: int
    rows_in: int
    rows_out: int
    row_in: int  # elements of a row of pixels
    row_out: int


@dataclass
class DepthFirst:
    """What a run did: elements fetched and written, and the most elements of pixels that were held at once."""

    chain: list[Window]
    fetched: int = 0
    written: int = 0
    most: int = 0
    held: list[set[int]] = field(default_factory=list)

    def run(self) -> DepthFirst:
        self.held = [set() for _ in self.chain]  # rows of each layer's input
        self.next_row = [0] * len(self.chain)
        last = len(self.chain) - 1
        for row in range(self.chain[last].rows_out):
            self._compute(last, row)
            self.written += self.chain[last].row_out
        return self

    def _compute(self, layer: int, row: int) -> None:
        """Rows of the input under the window of output row `row`, then the row itself."""
        w = self.chain[layer]
        top = row * w.stride - w.pad
        wanted = range(max(top, 0), min(top + w.height, w.rows_in))
        for r in wanted:
            if r not in self.held[layer]:
                assert r >= self.next_row[layer], "a row that was thrown away is needed again"
                # rows that a stride or the padding skips are made too: they come in order
                for made in range(self.next_row[layer], r + 1):
                    if layer:
                        self._compute(layer - 1, made)
                    else:
                        self.fetched += w.row_in
                    self.held[layer].add(made)
                    self._forget(layer, top)
                self.next_row[layer] = r + 1
        pixels = sum(len(rows) * v.row_in for rows, v in zip(self.held, self.chain, strict=True))
        self.most = max(self.most, pixels + w.row_out)
        self._forget(layer, (row + 1) * w.stride - w.pad)

    def _forget(self, layer: int, top: int) -> None:
        self.held[layer] = {r for r in self.held[layer] if r >= top}
