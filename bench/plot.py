#!/usr/bin/env python3
"""Plots what `bench NAME --json FILE` wrote: plot.py NAME FILE FIGURE.svg (what
`bench loss` wrote has a second figure, NAME `controller`), and what the scripts in tests/loss
wrote (NAME `sockets-independent` and so on). Needs the pip package matplotlib.

A PNG beside it, to look at: plot.py NAME FILE FIGURE.png
"""

import json
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# The same rows give the same octets.
plt.rcParams.update({"svg.hashsalt": "keystone", "font.size": 9})

STRATEGIES = ["user", "key", "group", "hybrid", "chain"]


def matching(rows: list[dict], pattern: str):
    """Rows whose case matches, with the groups of the match."""
    for row in rows:
        if match := re.fullmatch(pattern, row["case"]):
            yield match.groups(), row


def tree(rows: list[dict]) -> plt.Figure:
    """Wraps by strategy and degree, message octets by size, and time beside the primitives."""
    figure, (wraps, octets, times) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    largest = max(int(size) for (size, *_), _ in matching(rows, r"leave 2\^(\d+) .* wraps"))
    for strategy in ["key", "user", "chain"]:
        points = [(int(d), row["value"]) for (d,), row in matching(rows, rf"leave 2\^{largest} {strategy} d=(\d+) wraps")]
        label = "group, key, hybrid" if strategy == "key" else strategy
        wraps.plot(*zip(*sorted(points)), "o-", label=label)
    wraps.set(title=f"one leave of 2^{largest}", xlabel="degree", ylabel="wraps", yscale="log")
    for strategy, degree in [("group", 4), ("chain", 2)]:
        for suite in ["aes256", "aes128"]:
            points = [(int(k), row["value"]) for (k,), row in matching(rows, rf"leave 2\^(\d+) {strategy} d={degree} {suite} octets")]
            octets.plot(*zip(*sorted(points)), "o-", label=f"{strategy} d={degree} {suite}")
    octets.axhline(512, color="grey", linewidth=0.8)
    octets.annotate("one unit", (10, 512), xytext=(0, 3), textcoords="offset points", color="grey")
    octets.set(title="one leave: rekey message", xlabel="log2 of members", ylabel="octets", ylim=(0, None))
    for kind in ["leave", "join"]:
        points = sorted((int(k), row["value"], row["against_value"]) for (k,), row in matching(rows, rf"{kind} 2\^(\d+) time"))
        size, value, against = zip(*points)
        line, = times.plot(size, value, "o-", label=f"{kind}, complete")
        times.plot(size, against, "o:", color=line.get_color(), label=f"{kind}, its primitives")
    times.set(title="time, chain d=2 aes256", xlabel="log2 of members", ylabel="µs", ylim=(0, None))
    return figure


def batch(rows: list[dict]) -> plt.Figure:
    """Wraps per change beside what is expected, and changes a second."""
    figure, (wraps, octets, rates) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for case in ["chain d=2", "group d=4"]:
        points = [(float(share), row["value"], row["against_value"]) for (share,), row in
                  matching(rows, rf"batch 2\^\d+ J=L ([\d.]+)% {case} wraps per change")]
        share, value, expected = zip(*points)
        line, = wraps.plot(share, expected, "-", label=f"{case}, expected")
        wraps.plot(share, value, "o", color=line.get_color(), label=f"{case}, counted")
    wraps.set(title="joins and leaves alike", xlabel="per cent of 2^20", ylabel="wraps per change", xscale="log", ylim=(0, None))
    points = [(float(share), row["value"] / 1e6, row["against_value"] / 1e6) for (share,), row in
              matching(rows, r"batch 2\^\d+ J=L ([\d.]+)% chain octets")]
    share, chain, group = zip(*points)
    octets.plot(share, chain, "o-", label="chain d=2")
    octets.plot(share, group, "o-", label="group d=4")
    octets.set(title="octets of rekey messages", xlabel="per cent of 2^20", ylabel="million octets", xscale="log", yscale="log")
    for cores in ["one core", r"\d+ cores"]:
        points = [(float(share), row["value"], row["against_value"], name) for (share, name), row in
                  matching(rows, rf"batch 2\^\d+ J=L ([\d.]+)% chain changes a second, ({cores})")]
        share, value, bare, names = zip(*points)
        line, = rates.plot(share, value, "o-", label=f"{names[0]}, complete")
        rates.plot(share, bare, "o:", color=line.get_color(), label=f"{names[0]}, primitives")
    rates.set(title="changes a second, chain d=2", xlabel="per cent of 2^20", xscale="log", ylim=(0, None))
    return figure


def memory(rows: list[dict]) -> plt.Figure:
    """Octets a member by degree."""
    figure, axes = plt.subplots(figsize=(4, 3.4), layout="constrained")
    points = [(f"d={d}", row["value"]) for (d,), row in matching(rows, r"memory 2\^\d+ aes256 d=(\d+) .*")]
    names, values = zip(*points)
    axes.bar_label(axes.bar(names, values, width=0.5), fmt="%.1f")
    axes.axhline(96, color="grey", linewidth=0.8, label="goal at d=2")
    axes.set(title="octets a member at 2^20", ylim=(0, 110))
    return figure


def paper(rows: list[dict]) -> plt.Figure:
    """Encryptions by degree, and Table 4's shape."""
    figure, (counts, times) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for strategy in STRATEGIES:
        points = {}
        for (degree, _), row in matching(rows, rf"counts n=8192 d=(\d+) {strategy} (join|leave) encryptions"):
            points.setdefault(int(degree), []).append(row["value"])
        if strategy in ("key", "hybrid"):
            continue
        label = "group, key, hybrid" if strategy == "group" else strategy
        counts.plot(sorted(points), [sum(points[d]) / 2 for d in sorted(points)], "o-", label=label)
    counts.set(title="mean of a join and a leave, n = 8192", xlabel="degree", ylabel="encryptions", yscale="log")
    for scheme in ["alpha=0", "alpha=1", "rs2"]:
        for suite, style in [("paper", "o-"), ("aes256", "o:")]:
            points = [(int(n), row["value"]) for (n,), row in matching(rows, rf"table 4 n=(\d+) {scheme} {suite}")]
            if points:
                times.plot(*zip(*sorted(points)), style, label=f"{suite}, {scheme}")
    times.set(title="a join or leave, group-oriented d=4", xlabel="members", ylabel="µs", ylim=(0, None))
    times.set_xscale("log", base=2)
    return figure


def loss(rows: list[dict]) -> plt.Figure:
    """Messages not recovered: independent losses beside the equation; bursts; what the adaptive scheme costs."""
    figure, (independent, bursts, octets) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for scheme in ["alpha=0", "alpha=0.5", "alpha=1", "rs1", "rs2"]:
        points = [(int(s), row["value"] / 1e6, row["against_value"] / 1e6) for (s,), row in
                  matching(rows, rf"loss 0\.1 s=(\d+) {scheme} unrecovered")]
        units, value, expected = zip(*points)
        line, = independent.plot(units, expected, "-", linewidth=1, label=f"{scheme}, $P_m$")
        independent.plot(units, [v or None for v in value], "o", color=line.get_color(), markersize=4)
    independent.set(title="independent loss 0.1; dots: counted", xlabel="units of message", ylabel="share not recovered",
                    yscale="log", ylim=(1e-7, 1))
    for burst in ["2", "5", "10"]:
        for scheme, style in [("rs1", "o:"), ("adaptive", "o-")]:
            points = [(int(s), row["value"] / 1e6) for (s,), row in
                      matching(rows, rf"burst {burst} s=(\d+) {scheme} unrecovered")]
            color = None if scheme == "rs1" else line.get_color()
            line, = bursts.plot(*zip(*points), style, color=color, label=f"bursts of {burst}, {scheme}")
        points = [(int(s), row["ratio"]) for (s,), row in matching(rows, rf"burst {burst} s=(\d+) adaptive octets")]
        octets.plot(*zip(*points), "o-", color=line.get_color(), label=f"bursts of {burst}")
    bursts.axhline(1e-3, color="grey", linewidth=0.8)
    bursts.annotate("promise", (1, 1e-3), xytext=(0, 3), textcoords="offset points", color="grey")
    bursts.set(title="bursts, loss 0.1 on average", xlabel="units of message", yscale="log", ylim=(1e-4, 1))
    octets.axhline(1.5, color="grey", linewidth=0.8)
    octets.set(title="octets by adaptive over those by rs1", xlabel="units of message", ylim=(0, 1.6))
    for axes in (bursts, octets):
        axes.set_xscale("log", base=2)
    return figure


def controller(rows: list[dict]) -> plt.Figure:
    """What the controller estimates through steps and a ramp, and what it sends."""
    figure, plots = plt.subplots(4, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for axes, (what, label) in zip(plots, [("loss", "loss, %"), ("burst", "burst, unit-times"), ("units", "units sent"),
                                           ("unrecovered", "not recovered, in $10^6$")]):
        points = [(int(at), row["value"], row["against_value"]) for (at,), row in
                  matching(rows, rf"controller message (\d+) {what}")]
        at, value, against = zip(*points)
        other = {"units": "rs1", "unrecovered": "promise"}.get(what, "channel")
        axes.step(at, against, "-", where="pre", color="grey", linewidth=1, label=other)
        axes.plot(at, value, ".-", label="estimate" if other == "channel" else "adaptive")
        axes.set(ylabel=label, ylim=(0, None))
    plots[-1].set_yscale("symlog", linthresh=1000)
    plots[-1].set_ylim(0, 1e6)
    plots[0].set_title("messages of 10 units to 64 members, who report each of them")
    plots[-1].set_xlabel("message")
    return figure


def sockets_independent(rows: list[dict]) -> plt.Figure:
    """Each cell's share of messages not recovered on real sockets, beside the equation."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    points = [(case, row["value"] / 1e6, row["against_value"] / 1e6) for (case,), row in matching(rows, "(.*) unrecovered")]
    points.sort(key=lambda point: point[2])
    cases, values, expected = zip(*points)
    axes.plot(expected, cases, "|", color="black", markersize=14, label="$P_m$")
    axes.plot([value or None for value in values], cases, "o", markersize=5, label="counted")
    axes.set(title="independent losses on real sockets", xlabel="share of messages not recovered", xscale="log", xlim=(5e-5, 1.2))
    return figure


def sockets_bursts(rows: list[dict]) -> plt.Figure:
    """Messages not recovered on real sockets when losses come in bursts, rs1 beside adaptive; the octets of both."""
    figure, (missed, octets) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for burst, color in [("2", "C0"), ("5", "C1"), ("10", "C2")]:
        for scheme, style in [("rs1", "o"), ("adaptive", "s-")]:
            points = [(int(s), row["value"] / 1e6, row["against_value"] / 1e6) for (s,), row in
                      matching(rows, rf"burst {burst} s=(\d+) {scheme} unrecovered")]
            units, value, expected = zip(*points)
            missed.plot(units, value, style, color=color, markersize=5, label=f"bursts of {burst}, {scheme}")
            if scheme == "rs1":
                missed.plot(units, expected, "-", color=color, linewidth=0.8)
        points = [(int(s), row["ratio"]) for (s,), row in matching(rows, rf"burst {burst} s=(\d+) adaptive octets")]
        octets.plot(*zip(*points), "o-", color=color, label=f"bursts of {burst}")
    missed.axhline(1e-3, color="grey", linewidth=0.8)
    missed.annotate("promise", (1, 1e-3), xytext=(0, 3), textcoords="offset points", color="grey")
    missed.set(title="loss 0.1 on average; line at rs1: exact", ylabel="share of messages not recovered")
    missed.set_yscale("symlog", linthresh=1e-3)
    missed.set_ylim(0, 1)
    missed.legend(fontsize=7, ncols=3, loc="upper right")
    octets.axhline(1.5, color="grey", linewidth=0.8)
    octets.set(title="octets by adaptive over those by rs1", ylim=(0, 1.6))
    for axes in (missed, octets):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="units of message")
    return figure


def sockets_outage(rows: list[dict]) -> plt.Figure:
    """Messages not recovered on real sockets with regular outages, rs1 beside adaptive."""
    figure, axes = plt.subplots(figsize=(5, 3.8), layout="constrained")
    for length, color in [("4", "C0"), ("10", "C1"), ("25", "C2")]:
        for scheme, style in [("rs1", "o:"), ("adaptive", "s-")]:
            points = [(int(s), row["value"] / 1e6) for (s,), row in
                      matching(rows, rf"outage {length} s=(\d+) {scheme} unrecovered")]
            axes.plot(*zip(*points), style, color=color, markersize=5, label=f"{length} unit-times, {scheme}")
    axes.axhline(1e-3, color="grey", linewidth=0.8)
    axes.set(title="an outage in each 500 unit-times", xlabel="units of message", ylabel="share of messages not recovered")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(-5e-5, 0.2)
    return figure


def zookeeper(rows: list[dict]) -> plt.Figure:
    """Keys received of keys sent, their latency and the time to join by joins a second: lines simulated, dots over real servers."""
    figure, (received, latency, joining) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for scheme, color in [("naive", "C0"), ("naive, 2 s apart", "C3"), ("ours", "C2")]:
        def points(world: str, what: str) -> list[tuple[float, float]]:
            return [(float(rate), row["value"]) for (rate,), row in
                    matching(rows, rf"{world} {scheme}, ([\d.]+) joins a second: {what}")]
        for axes, what in [(received, "received, under way included"), (latency, "latency")]:
            axes.plot(*zip(*points("simulated", what)), "-", color=color, label=f"{scheme}, simulated")
            if real := points("real", what):
                axes.plot(*zip(*real), "o", color=color, label=f"{scheme}, real")
        received.plot(*zip(*points("simulated", "received")), ":", color=color)
        joining.plot(*zip(*points("simulated", "time to join")), "-", color=color, label=f"{scheme}, simulated")
    for level, name in [(96, "the paper"), (99, "the paper, 2 s apart")]:
        received.axhline(level, color="grey", linewidth=0.8)
        received.annotate(name, (0.25, level), xytext=(0, 3), textcoords="offset points", color="grey", fontsize=7)
    latency.axhline(0.5, color="grey", linewidth=0.8)
    latency.annotate("the paper", (0.25, 0.5), xytext=(0, 3), textcoords="offset points", color="grey", fontsize=7)
    received.set(title="keys received of keys sent (dotted: by the end)", ylabel="%", ylim=(92.5, 100.3))
    received.legend(fontsize=6, ncols=2, loc="lower left")
    latency.set(title="from the making of a key to its arrival", ylabel="s", ylim=(0, None))
    joining.set(title="from a request to its reply", ylabel="s", ylim=(0, None))
    for axes in (received, latency, joining):
        axes.set_xscale("log", base=2)
        axes.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"])
        axes.set(xlabel="joins a second")
    return figure


def main(name: str, source: str, target: str) -> None:
    with open(source, encoding="utf-8") as file:
        rows = json.load(file)["rows"]
    figure = {"tree": tree, "batch": batch, "memory": memory, "paper": paper, "loss": loss,
              "controller": controller, "sockets-independent": sockets_independent, "sockets-bursts": sockets_bursts,
              "sockets-outage": sockets_outage, "zookeeper": zookeeper}[name](rows)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        if axes.get_legend() is None:
            axes.legend(fontsize=7)
    metadata = {"Date": None} if target.endswith(".svg") else None
    figure.savefig(target, metadata=metadata, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
