"""Tables and status lines that commands print."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from data_prep.prepare.preview import Preview
from data_prep.prepare.status import Status

if TYPE_CHECKING:
    from pipelines.evaluation.report import Report


def status_lines(folder: str, status: Status) -> list[str]:
    """Return the progress of ``e4t prepare`` as lines of text."""
    remaining = status.num_images - status.processed
    eta = f", {remaining / status.rate / 60:.0f} minutes left" if status.rate and remaining else ""
    rate = f", {status.rate:.1f} images/s" if status.rate else ""
    state = "finished" if status.finished else "not finished"
    lines = [
        f"{folder}: {state}",
        f"shards    {status.shards_done} of {status.num_shards}",
        f"images    {status.processed} done, {remaining} left{rate}{eta}",
    ]
    lines += _count_lines("rejected", status.reject_counts)
    lines += _count_lines("to retry", status.retryable_counts)
    lines += _count_lines("ignored", status.ignored_counts)
    return lines + ([f"captions  {status.captions_missing} not found"] if status.captions_missing else [])


def preview_lines(source: str, preview: Preview) -> list[str]:
    """Return what ``e4t prepare`` would read as lines of text."""
    splits = ", ".join(f"{count} {split}" for split, count in preview.split_counts.items())
    lines = [f"{source}: {sum(preview.suffix_counts.values())} images ({splits}); nothing was written"]
    lines += _count_lines("images", preview.suffix_counts)
    lines.append(f"captions  {preview.captions_found} found, {preview.captions_missing} configured and not found")
    lines += _count_lines("rejected", preview.reject_counts)
    lines += _count_lines("ignored", preview.ignored_counts)
    return lines + [f"sample    {each.source}  {each.identity}  {each.caption!r}" for each in preview.samples]


def _count_lines(title: str, counts: dict[str, int]) -> list[str]:
    return [f"{title:9} {count} {reason}" for reason, count in counts.items()]


def report_table(report: "Report") -> Table:
    """Return an evaluation report as a table with a row per system and number of tuning steps."""
    title = "means over held-out concepts (columns: see docs/evaluation.md)"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("system", min_width=12, overflow="fold")
    for title in ("steps", *report.score_labels, "seconds"):
        table.add_column(title.replace(" ", "\n"), justify="right", min_width=5, overflow="fold")
    for row in report.rows:
        means = (f"{estimate.mean:.3f}" for estimate in row.scores.values())
        table.add_row(row.system, str(row.steps), *means, f"{row.seconds.mean:.1f}")
    return table
