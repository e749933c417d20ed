"""The report: one self-contained HTML file about one run."""

from see_rnn_like.report.write import write_report

__all__ = ["write_report"]
