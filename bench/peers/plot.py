#!/usr/bin/env python3
"""Plots the rows that `peers --json FILE` wrote: plot.py FILE FIGURE.svg. Needs the pip package matplotlib."""

import json
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# The same rows give the same octets.
plt.rcParams.update({"svg.hashsalt": "keystone", "font.size": 9})

PANELS = [
    ("octets", "octets on the wire"),
    ("server time", "time at the server, µs"),
    ("receiver time", "time at a receiver, µs"),
]
OPENMLS = {"admin-managed": "OpenMLS, admin-managed", "best": "OpenMLS, best case"}


def main(source, target):
    with open(source, encoding="utf-8") as file:
        rows = json.load(file)["rows"]
    lines = {}  # (what, whose) -> {members: figure}
    for row in rows:
        members, what, case = re.fullmatch(r"remove (\d+) (.+) beside openmls (.+)", row["case"]).groups()
        lines.setdefault((what, "Keystone"), {})[int(members)] = row["value"]
        lines.setdefault((what, case), {})[int(members)] = row["against_value"]

    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 3.8), layout="constrained")
    for axes, (what, title) in zip(panels, PANELS):
        for case, style in zip(OPENMLS, ("^-", "s-")):
            if (what, case) in lines:
                draw(axes, lines[what, case], style, OPENMLS[case])
        draw(axes, lines[what, "Keystone"], "o-", "Keystone, repair units included" if what == "octets" else "Keystone")
        if what == "octets":
            draw(axes, lines["message octets", "Keystone"], "o:", "Keystone, the message alone")
        sizes = sorted(lines[what, "Keystone"])
        axes.set(title=title, xlabel="members")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        axes.minorticks_off()
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle("Removal of one member, one core each")
    figure.savefig(target, metadata={"Date": None})


def draw(axes, figures, style, label):
    colour = {"^": "tab:red", "s": "tab:orange", "o": "tab:blue"}[style[0]]
    sizes = sorted(figures)
    axes.plot(sizes, [figures[size] for size in sizes], style, color=colour, label=label, markersize=4)


if __name__ == "__main__":
    main(*sys.argv[1:])
