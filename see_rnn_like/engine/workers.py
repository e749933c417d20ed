"""Several workers: processes, mostly on several machines, that train one model together."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def is_chief() -> bool:
    """Whether this is the process that writes what all have in common.

    TensorFlow's rule, by the environment variable TF_CONFIG: the task "chief", or worker 0 where there is
    no such task. A process that is part of no cluster is its own chief.
    """
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    jobs = resolver.cluster_spec().as_dict()
    if not jobs or resolver.task_type in ("chief", "evaluator"):
        return True
    return "chief" not in jobs and resolver.task_type == "worker" and resolver.task_id == 0


def are_several(strategy: Any) -> bool:
    """Whether a strategy trains in several processes."""
    replicas = strategy.num_replicas_in_sync
    return replicas > 1 and replicas > len(strategy.extended.worker_devices)


def told_by_all(strategy: Any, number: int) -> list[int]:
    """What each replica of each worker tells; returns once all have told.

    Args:
        strategy: of several workers, each of which must call this.
        number: what this worker tells.
    """
    return _exchanged(strategy, tf.constant([number], tf.int64)).numpy().tolist()


@tf.function(autograph=False)
def _exchanged(strategy: Any, told: Any) -> Any:
    """Compiled once per strategy: TensorFlow's own eager exchange is traced anew each time."""
    return strategy.experimental_local_results(strategy.run(_gathered, args=(told,)))[0]


@tf.autograph.experimental.do_not_convert
def _gathered(told: Any) -> Any:
    # The identity is on the replica's device, by which TensorFlow finds the others.
    return tf.distribute.get_replica_context().all_gather(tf.identity(told), axis=0)
