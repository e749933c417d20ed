"""Replay bundles: a train step that went bad, on disk, to be run again here or elsewhere."""

from see_rnn_like.bundle.again import rebuilt, replay
from see_rnn_like.bundle.contents import Bundle, read, versions, write

__all__ = ["Bundle", "read", "rebuilt", "replay", "versions", "write"]
