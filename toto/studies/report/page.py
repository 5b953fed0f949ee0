"""One run, from the videos to the verdicts, on one page that needs nothing but a browser."""

import json
from pathlib import Path

import jinja2

from toto.config import write_json
from toto.files import write_atomically
from toto.studies.report.charts import charts
from toto.studies.report.pictures import moving, pairs, strip
from toto.studies.report.records import Report, summary
from toto.studies.report.words import (
    duration,
    in_bytes,
    percent,
    short,
    standard_error,
    verdicts,
)

_FAILURES_SHOWN = 20


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.html`, one self-contained file, and `summary.json`; returns the page's path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("toto", "studies/report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "short": short,
        "duration": duration,
        "bytes": in_bytes,
        "percent": percent,
    }
    page = environment.get_template("page.html").render(
        r=report,
        verdicts=verdicts(report),
        scopes=[
            ("Whole clip", report.whole_clip),
            (f"Frames 2 to {report.clip_frames}", report.later_frames),
        ],
        charts=charts(report),
        pairs=pairs(report.tokenizer),
        futures=[(c, moving(c), strip(c)) for c in report.continuations],
        failures_shown=report.data.failures[:_FAILURES_SHOWN],
        standard_error=standard_error(report.probe, report.probe.accuracy) if report.probe else 0,
        config=json.dumps(report.config, indent=2, ensure_ascii=False),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary(report))
    write_atomically(folder / "report.html", page.encode())
    return folder / "report.html"
