"""The run as two drawings (SVG): CPU per command and latency, a panel for each workload, a line for each target.

Text and lines take a grey that can be read on white and on black; nothing is painted behind them.
"""

import math
from xml.sax.saxutils import escape

from summary import LATENCIES
from tables import number
from targets import TITLES

INK, FAINT, OURS, OTHERS = "#7d8590", "#7d859055", "#2f81f7", "#9a8f7d"
COLUMNS, WIDTH, LINE, GAP = 2, 470, 20, 24
LABELS, MARGIN, HEAD, FOOT = 140, 92, 30, 54


def cpu(rows, workloads, about):
    """Bars: the target's own CPU, and behind it, paler, what it costs upstream."""
    def draw(panel, rows):
        panel.scale(0, max(row["cpu_us"] + behind(row) for row in rows if row["cpu_us"] is not None))
        panel.axis("CPU µs per command")
        for at, row in enumerate(rows):
            if row["cpu_us"] is None:
                panel.note(at, row["failed"])
                continue
            panel.bar(at, 0, row["cpu_us"], colour(row), 1)
            panel.bar(at, row["cpu_us"], row["cpu_us"] + behind(row), colour(row), 0.4)
            text = number(row["cpu_us"]) + (f" + {number(behind(row))}" if row["target"] != "redis" else "")
            panel.text_right_of(at, row["cpu_us"] + behind(row), text)

    legend = "solid: the process itself; pale: redis-server behind it"
    return drawing("CPU per command", legend, rows, workloads, about, draw)


def latency(rows, workloads, about):
    """Three marks on a logarithmic scale: the 50th, 99th and 99.9th percentile."""
    fields = [f"{name}_us" for name in LATENCIES]

    def draw(panel, rows):
        figures = [row[field] for row in rows for field in fields if row[field]]
        panel.scale(min(figures), max(figures), logarithmic=True)
        panel.axis("latency, µs")
        for at, row in enumerate(rows):
            if row[fields[0]] is None:
                panel.note(at, row["failed"])
                continue
            panel.marks(at, [row[field] for field in fields], colour(row))
            panel.text_right_of(at, row[fields[-1]], number(row[fields[-1]]))

    legend = "● median, ◆ 99th, ▮ 99.9th percentile (the number); all targets get the same commands per second"
    shown = [row for row in rows if row["p50_us"] is not None or row["failed"]]
    return drawing("Latency in an open loop", legend, shown, workloads, about, draw)


def behind(row):
    return 0.0 if row["target"] == "redis" else row["upstream_cpu_us"]


def colour(row):
    return OURS if row["target"].startswith("sidecache") else INK if row["target"] == "redis" else OTHERS


def drawing(title, legend, rows, workloads, about, draw):
    by = {workload: [row for row in rows if row["workload"] == workload.name] for workload in workloads}
    # A panel in which nobody has a figure would have no scale.
    by = {workload: mine for workload, mine in by.items() if any(row["cpu_us"] is not None for row in mine)}
    parts, top, height = [], 64, 0
    for at, (workload, mine) in enumerate(by.items()):
        if at % COLUMNS == 0:
            top, height = top + height, 0
        panel = Panel((at % COLUMNS) * (WIDTH + GAP) + GAP, top, mine)
        panel.title(workload.title)
        draw(panel, mine)
        parts += panel.parts
        height = max(height, HEAD + LINE * len(mine) + FOOT)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, top + height + 8
    head = [text(GAP, 24, title, size=17, weight="bold"), text(GAP, 44, f"{legend}. {about}", size=12)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(title)}" font-family="system-ui, sans-serif">\n' + "\n".join([*head, *parts]) + "\n</svg>\n"
    )


class Panel:
    """One workload: a title, a labelled line for each target, an axis below them."""

    def __init__(self, left, top, rows):
        self.left, self.top, self.lines = left, top + HEAD, len(rows)
        self.parts = [
            text(self.left + LABELS - 8, self.middle(at) + 4, TITLES[row["target"]], anchor="end", fill=colour(row))
            for at, row in enumerate(rows)
        ]

    def title(self, title):
        shown = title if len(title) < 70 else title[:68] + "…"
        self.parts.append(text(self.left, self.top - 12, shown, size=13, weight="bold"))

    def middle(self, at):
        return self.top + LINE * at + LINE / 2

    def scale(self, least, most, logarithmic=False):
        self.logarithmic = logarithmic
        if logarithmic:
            self.ends = math.log10(least) - 0.1, math.log10(most) + 0.05
            powers = range(math.floor(self.ends[0]), math.ceil(self.ends[1]) + 1)
            decades = self.ends[1] - self.ends[0]
            steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
            ticks = [step * 10.0**power for power in powers for step in steps]
            self.ticks = [tick for tick in ticks if self.ends[0] <= math.log10(tick) <= self.ends[1]]
        else:
            self.ends = least, most
            step = 10 ** math.floor(math.log10(most / 2))
            step = next(step * times for times in (1, 2, 5, 10) if most / (step * times) <= 5)
            self.ticks = [step * at for at in range(int(most / step) + 1)]

    def x(self, value):
        place = math.log10(value) if self.logarithmic else value
        share = (place - self.ends[0]) / (self.ends[1] - self.ends[0])
        return self.left + LABELS + share * (WIDTH - LABELS - MARGIN)

    def axis(self, unit):
        bottom = self.top + LINE * self.lines
        for tick in self.ticks:
            x = self.x(tick)
            self.parts.append(f'<path d="M{x:.1f} {self.top}V{bottom + 3}" stroke="{FAINT}"/>')
            self.parts.append(text(x, bottom + 15, f"{tick:,.12g}", size=10, anchor="middle"))
        self.parts.append(text(self.left + LABELS + (WIDTH - LABELS - MARGIN) / 2, bottom + 30, unit, size=10, anchor="middle"))

    def bar(self, at, start, end, fill, opacity):
        left, right = self.x(start), self.x(end)
        shape = f'x="{left:.1f}" y="{self.middle(at) - 6}" width="{right - left:.1f}" height="12"'
        self.parts.append(f'<rect {shape} fill="{fill}" fill-opacity="{opacity}"/>')

    def marks(self, at, values, fill):
        y, (first, second, third) = self.middle(at), [self.x(value) for value in values]
        self.parts.append(f'<path d="M{first:.1f} {y}H{third:.1f}" stroke="{fill}" stroke-width="1.5"/>')
        self.parts.append(f'<circle cx="{first:.1f}" cy="{y}" r="4" fill="{fill}"/>')
        self.parts.append(f'<path d="M{second:.1f} {y - 5}l5 5l-5 5l-5 -5z" fill="{fill}"/>')
        self.parts.append(f'<path d="M{third:.1f} {y - 6}v12" stroke="{fill}" stroke-width="3"/>')

    def text_right_of(self, at, value, label):
        self.parts.append(text(self.x(value) + 6, self.middle(at) + 4, label, size=11))

    def note(self, at, why):
        self.parts.append(text(self.left + LABELS, self.middle(at) + 4, why, size=11, style="italic"))


def text(x, y, content, size=12, anchor="start", fill=INK, weight="normal", style="normal"):
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}" font-style="{style}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(content)}</text>'
