"""Bringing together what the replicas of one step saw, so that it describes the global batch.

Every replica computes its share of a batch. Tensors with a sample axis (outputs and their gradients) lie
end to end in the global batch: their statistics merge exactly. The gradients of the weights and the loss
are sums over the replicas, as the optimizer sums them. Weights are the same on all replicas.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.engine import summaries
from see_rnn_like.engine.collect import Collected, Note
from see_rnn_like.engine.workers import are_several
from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.stats import MOMENTS, merge_moments

_NONFINITE = [MOMENTS.index("nan"), MOMENTS.index("inf")]

_UNEQUAL = Note(
    "unequal-shares",
    None,
    "the replicas had unequal shares of a batch: Keras gives the mean loss of each the same weight, so loss "
    "and gradients of such a step are not those of the mean over its samples",
)


@dataclass(frozen=True)
class Merged:
    """What the shares of all replicas together say, on the host.

    Attributes:
        moments: key → float64 ``(gate, moment)``, of tensors with a sample axis.
        histograms: key → int64 ``(gate, bin)``, of the same.
        values: key → the array, samples in the order of the replicas.
        nonfinite: key → counts of NaN and of Inf, int64 ``(replica, gate, 2)``, of every tensor of which
            one of the replicas holds such values; also of those that are summed.
        notes: what should be known about the shares.
    """

    moments: dict[TensorKey, np.ndarray]
    histograms: dict[TensorKey, np.ndarray]
    values: dict[TensorKey, np.ndarray]
    nonfinite: dict[TensorKey, np.ndarray]
    notes: tuple[Note, ...]


class Shares:
    """Brings together the tensors of a step that are not the same on all replicas.

    Args:
        strategy: of several replicas, perhaps in several processes.
        seen: what one of them collected.
        full: whether values are kept.

    Attributes:
        infos: what the tensors are, in the global batch.
        joined: those with a sample axis.
        summed: all others.
        exchanged: what the step has to return, to be handed to `merged`; known after `together`.
    """

    def __init__(self, strategy: Any, seen: Collected, full: bool) -> None:
        self._strategy = strategy
        self._several_workers = are_several(strategy)
        self._dtypes = [tensor.dtype for tensor in seen.tensors.values()]
        self.infos = [_in_global_batch(info) for info in seen.infos]
        self.joined = [info for info in self.infos if _has_samples(info)]
        self.summed = [info for info in self.infos if not _has_samples(info)]
        self.exchanged: dict[str, Any] = {}
        self._names = [str(info.key) for info in self.joined]
        self._kept = [i for i, info in enumerate(self.joined) if full and self._is_collectable(info)]
        for info in self.joined:
            if full and not self._is_collectable(info):
                why = "a size beside the number of samples is not known beforehand, workers may differ"
                message = f"of {info.key} statistics are kept, but no values: {why}"
                seen.notes.append(Note("not-kept-in-full", info.key, message))

    def _is_collectable(self, info: TensorInfo) -> bool:
        # Workers whose tensors do not fit together would break, not only the recording but the training.
        return not self._several_workers or None not in info.shape[1:]

    # -- traced ---------------------------------------------------------------------------------

    def together(self, patterns: Sequence[Any], masks: Mapping[str, Any]) -> list[Any]:
        """Exchanges what is needed between the replicas; to be called outside of them.

        Args:
            patterns: bit patterns of what was collected, as they left the replicas.
            masks: where values are no padding, by the name of the tensor.

        Returns:
            The sums over replicas of `summed`. What `merged` takes is in `exchanged`.
        """
        totals, shares, values = self._strategy.run(self._on_replica, args=(list(patterns), dict(masks)))
        local = self._strategy.experimental_local_results
        shares = {name: local(share)[0] for name, share in shares.items()}
        parts = [local(value) for value in values]
        if self._several_workers and values:
            number, sizes = self._strategy.num_replicas_in_sync, shares["samples"]
            kept = zip(self._kept, parts, strict=True)
            parts = [tf.split(whole[0], sizes[:, i], num=number) for i, whole in kept]
        self.exchanged = shares | {"values": parts}
        return [local(total)[0] for total in totals]

    @tf.autograph.experimental.do_not_convert
    def _on_replica(
        self, patterns: list[Any], masks: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any], list[Any]]:
        context = tf.distribute.get_replica_context()
        tensors = [tf.bitcast(p, dtype) for p, dtype in zip(patterns, self._dtypes, strict=True)]
        joined = [tensor for info, tensor in zip(self.infos, tensors, strict=True) if _has_samples(info)]
        summed = [tensor for info, tensor in zip(self.infos, tensors, strict=True) if not _has_samples(info)]
        values = [joined[i] for i in self._kept]
        named = zip(self._names, joined, strict=True)
        counted = [tf.boolean_mask(part, masks[name]) if name in masks else part for name, part in named]
        moments, histograms = summaries.pack(self.joined, counted)
        share = {
            "replica": tf.convert_to_tensor(context.replica_id_in_sync_group),
            "moments": moments,
            "histograms": histograms,
            "nonfinite": _nonfinite_rows(self.summed, summed),
            "samples": tf.stack([tf.shape(part)[0] for part in joined]) if joined else tf.zeros(0),
        }
        # TensorFlow (2.21) dies of gathering nothing from devices without a collective of their own.
        share = {name: part[None] for name, part in share.items() if 0 not in part.shape}
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, summed) if summed else []
        if self._several_workers:
            values = [context.all_gather(value, axis=0) for value in values]
        return totals, context.all_gather(share, axis=0), values

    # -- on the host ----------------------------------------------------------------------------

    def merged(self, shares: dict[str, Any]) -> Merged:
        """Merges what `together` exchanged."""
        order = np.argsort(np.asarray(shares["replica"]))
        nothing = np.zeros((len(order), 0, len(MOMENTS)))
        moments = np.asarray(shares.get("moments", nothing))[order]
        histograms = np.asarray(shares.get("histograms", nothing)).sum(0, dtype="int64")
        summed = np.asarray(shares.get("nonfinite", nothing[:, :, :2]))[order]
        nonfinite = np.concatenate([moments[:, :, _NONFINITE], summed], axis=1).astype("int64")
        counts = _by_tensor([*self.joined, *self.summed], nonfinite)
        return Merged(
            *summaries.unpack(self.joined, functools.reduce(merge_moments, moments), histograms),
            {
                self.joined[i].key: np.concatenate([np.asarray(parts[replica]) for replica in order])
                for i, parts in zip(self._kept, shares["values"], strict=True)
            },
            {key: count for key, count in counts.items() if count.any()},
            (_UNEQUAL,) if np.ptp(np.asarray(shares.get("samples", [[0]])), axis=0).any() else (),
        )


def _has_samples(info: TensorInfo) -> bool:
    return info.dims[:1] == ("sample",)


def _in_global_batch(info: TensorInfo) -> TensorInfo:
    """What a tensor is that one replica sees a part of."""
    if not _has_samples(info):
        return dataclasses.replace(info, attrs={**info.attrs, "replicas": "summed, as the optimizer does"})
    shape, attrs = (None, *info.shape[1:]), {**info.attrs, "replicas": "samples of all replicas"}
    return dataclasses.replace(info, shape=shape, attrs=attrs)


def _nonfinite_rows(infos: Sequence[TensorInfo], tensors: Sequence[Any]) -> Any:
    """Counts of NaN and of Inf, int32 ``(row, 2)``; a row per tensor and gate."""
    rows = [_nonfinite(tensor, info.rows) for info, tensor in zip(infos, tensors, strict=True)]
    return tf.concat([tf.zeros((0, 2), tf.int32), *rows], axis=0)


def _nonfinite(tensor: Any, gates: int) -> Any:
    by_gate = tf.reshape(tensor, (-1, gates, tensor.shape[-1] // gates if gates > 1 else 1))
    kinds = (tf.math.is_nan(by_gate), tf.math.is_inf(by_gate))
    return tf.stack([tf.math.count_nonzero(kind, (0, 2), dtype=tf.int32) for kind in kinds], axis=1)


def _by_tensor(infos: Sequence[TensorInfo], counts: np.ndarray) -> dict[TensorKey, np.ndarray]:
    """Splits ``(replica, row, kind)`` into key → ``(replica, gate, kind)``."""
    ends = np.cumsum([info.rows for info in infos])[:-1]
    return dict(zip([info.key for info in infos], np.split(counts, ends, axis=1), strict=False))
