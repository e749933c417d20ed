"""The page of a bundle that a person reads first."""

from __future__ import annotations

from typing import Any

from see_rnn_like.findings import Autopsy

_PAGE = """\
{message}

To see it again (with see_rnn_like, Keras and TensorFlow installed), in the directory above this one:

    python -m see_rnn_like replay {name}{code}

{needs}
What to do: {advice}

Files
    README.txt    this page
    autopsy.json  the first non-finite tensor, and the numbers that led there
    batch.bin     the batch of the step
    state.bin     all weights, statistics, states and seeds, the optimizer, before the step
    model.json    the model's configuration and summary
    bundle.json   versions, settings, and what is where in the .bin files
    SHA256SUMS    checksums of these files (sha256sum -c SHA256SUMS)

Written {created} with
{versions}

{summary}
"""


def readme(autopsy: Autopsy, about: dict[str, Any], manifest: dict[str, Any], name: str) -> str:
    """The text of ``README.txt``.

    Args:
        autopsy: what was found.
        about: the content of ``model.json``.
        manifest: the content of ``bundle.json``.
        name: of the directory.
    """
    return _PAGE.format(
        message=autopsy.message,
        name=name,
        code=" --code FILE.py" if about["custom_objects"] else "",
        needs=_needs(about),
        advice=autopsy.advice,
        created=manifest["created"],
        versions="\n".join(f"    {what} {version}" for what, version in manifest["versions"].items()),
        summary=about["about"]["summary"],
    )


def _needs(about: dict[str, Any]) -> str:
    if about["config"] is None:
        return (
            "The model cannot be built from this directory alone: "
            f"{about['obstacle']}.\nReplay it from Python with the model, built and compiled as it was:\n\n"
            "    see_rnn_like.replay(directory, model=model)\n"
        )
    if about["custom_objects"]:
        return f"FILE.py has to define {', '.join(about['custom_objects'])}.\n"
    return "Nothing else is needed: the model is made of Keras's own layers.\n"
