"""From a run to its mechanism, as a marimo notebook.

marimo edit docs/notebooks/mechanism.py     # in a browser, cell by cell
python docs/notebooks/mechanism.py          # all of it; --out DIR: where its run is kept
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="From a run to its mechanism")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo
    import matplotlib.pyplot as plt
    import polars as pl

    import compfast
    from compfast import analysis
    from compfast.analysis import Edge, Patch

    return Edge, Patch, Path, analysis, compfast, mo, pl, plt


@app.cell
def _(mo):
    mo.md(r"""
    # From a run to its mechanism

    Networks of the anchor task fit the same data and answer a pair of anchors that they never
    saw, (4,3), in two ways: *inferential* ones compose two shifts, *symmetric* ones answer as
    they were taught to answer (3,4). Here we train two of each kind, and ask **by which way
    through attention** the key and the anchors come to the answer.

    The training takes a quarter of a minute on one core. Later runs of this notebook load it.
    """)
    return


@app.cell
def _(Path, compfast, mo):
    out = Path(mo.cli_args().get("out") or "runs/mechanism")
    config = {
        "sweep": {"init.gamma": [0.35, 0.6], "seed": [0, 1]},  # large, small initial weights
        "run": {"snapshots": [0, 200, 400, 800, 1600]},
    }
    run = compfast.load(out) if (out / "config.json").exists() else compfast.train(config, out=out)
    run.members.select("member", "gamma", "seed", "verdict", "seen", "inferential", "symmetric")
    return out, run


@app.cell
def _(mo):
    mo.md(r"""
    ## When it was decided

    `transitions` says from which exam on the final verdict's score stays above one half;
    `complexity` is the mean stable rank of attention's matrices: from small initial weights it
    falls by a third, from large ones hardly.
    """)
    return


@app.cell
def _(analysis, pl, run):
    when = analysis.transitions(run)
    complexity = analysis.ranks(run).filter(pl.col("measure") == "complexity")
    complexity.pivot(on="step", index="member", values="value").join(when, on="member")
    return


@app.cell
def _(mo):
    mo.md(r"""
    ## Cutting one edge at a time

    `effects` takes each member's exam again with one attention weight at 0: the query's on the
    key, on an anchor. `kept` is the share of all answers that stay as they were; an edge without
    which nearly none stays is part of the mechanism.
    """)
    return


@app.cell
def _(Edge, analysis, run):
    edges = [
        ("anchor1", "key"),
        ("anchor2", "key"),
        ("anchor2", "anchor1"),
        ("last", "key"),
        ("last", "anchor1"),
        ("last", "anchor2"),
    ]
    cuts = {
        f"{layer}: {query} on {key}": Edge(layer, query, key)
        for layer in (0, 1)
        for query, key in edges
    }
    cut = analysis.effects(run, cuts, items=100)
    return cut, cuts


@app.cell
def _(cut, cuts, out, plt, run):
    names, members = list(cuts), run.members
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    grid = cut.pivot(on="change", index="member", values="kept").select(names).to_numpy()
    image = axes.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), value in zip(
        [(i, j) for i in range(grid.shape[0]) for j in range(grid.shape[1])], grid.flat, strict=True
    ):
        axes.text(
            column, row, f"{value:.2f}", ha="center", color="white" if value < 0.6 else "black"
        )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    labels = [f"{row['gamma']:g}, {row['verdict']}" for row in members.iter_rows(named=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title("Share of answers kept where an edge is cut (layer: query on key)")
    figure.colorbar(image)
    figure.savefig(out / "mechanism.png", dpi=120)
    figure
    return


@app.cell
def _(mo):
    mo.md(r"""
    Read a row as a circuit. A **serial** one stands on three edges: in layer 0 the second anchor
    looks at the key and at the first anchor, in layer 1 the last token looks at the second
    anchor. What the second anchor holds is then made of the key and of both anchors *in their
    order*. A **parallel** one has up to four, of which none alone carries everything: in layer 0
    each anchor looks at the key by itself, in layer 1 the last token looks at both. Which came
    first has to be told by their positions alone, and mirror images look alike.

    Where this was written (instruction set v3) the inferential members are serial and the
    symmetric ones parallel, which is not what the paper draws: there the anchors take the key
    separately in the *inferential* solution. A task has more than two mechanisms, and a verdict
    does not name one. `information_flow`, whose definition is the paper's picture, finds the key
    copied onto both anchors in symmetric members rather than in inferential ones, here and in the
    512 members of the main job.
    """)
    return


@app.cell
def _(analysis, run):
    flow = analysis.information_flow(run)
    flow.scores.select("member", "copied_then_gathered", "shuffled_copied_then_gathered").join(
        run.members.select("member", "gamma", "verdict"), on="member"
    )
    return


@app.cell
def _(mo):
    mo.md(r"""
    ## Is it the order that the answer lacks?

    A patch gives a place the value that it has on the same sequence with the two anchors swapped.
    Where the circuit is serial, the swapped sequence's attention output at the last token is that
    of (3,4), and carries its answer along: the member then answers as it was taught to answer
    (3,4).
    """)
    return


@app.cell
def _(Patch, analysis, run):
    swaps = {
        f"layer {layer} at {place}": Patch(f"blocks.{layer}.attention", [place], "swapped")
        for layer in (0, 1)
        for place in ("anchor2", "last")
    }
    swapped = analysis.effects(run, swaps, items=100)
    swapped.select("member", "change", "inferential", "symmetric", "logit_difference").join(
        run.members.select("member", "verdict"), on="member"
    )
    return


@app.cell
def _(mo):
    mo.md(r"""
    ## What was not shown

    Four members are a beginning. Train more seeds (`"seed": range(16)`), and look at `gamma` 0.9,
    where small weights are symmetric again: is it the parallel circuit there? A control for every
    cut: an edge between tokens that hold noise. And attention is all that was cut here; what the
    FFN does with what it gets is another question.
    """)
    return


if __name__ == "__main__":
    app.run()
