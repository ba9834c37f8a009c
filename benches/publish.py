"""Puts what a run has found into the documentation, between marks that name it."""

import sys

from processes import ROOT


def section(path, name, content):
    """Replaces what stands between `<!-- name -->` and `<!-- /name -->` in a file of the repository."""
    file = ROOT / path
    before, mark, rest = file.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not mark or not end:
        sys.exit(f"{path} has no section between <!-- {name} --> and <!-- /{name} -->")
    file.write_text(f"{before}{mark}{content.strip()}\n{end}{after}")


def about(about, command):
    """The sentence that tells how to get such figures, and where these come from."""
    machine = about["machine"]
    names = {"sidecache": "sidecache", "redis": "Redis", "twemproxy": "twemproxy", "haproxy": "HAProxy", "envoy": "Envoy"}
    versions = ", ".join(f"{title} {about[name]}" for name, title in names.items() if name in about)
    # What is counted rather than timed has none.
    rounds = f"; rounds: {about['rounds']}, each turn {about['seconds']:g} s" if "rounds" in about else ""
    return (
        f"`{command}`, {about['date']}: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel'].split('-')[0]}, load"
        f" {machine['load_at_start']:.1f} at the start; {versions}{rounds}."
    )
