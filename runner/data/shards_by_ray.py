"""Shards written in parallel by Ray Data, before a run starts."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Generator
from typing import Any

from runner.cluster.connection import cluster
from runner.config.user_code import own_packages
from runner.data.errors import DataError
from runner.data.parquet import EXTRA
from runner.data.shards import write_shard_of
from runner.report.printable import printable_line


def write_shards(jobs: list[dict[str, Any]], address: str | None) -> Generator[str, None, None]:
    """Write shards on a cluster; yield what is wrong with each, in their order, empty if nothing is.

    Parameters
    ----------
    jobs : list of dict
        For :func:`runner.data.shards.write_shard`.
    address : str, optional
        Of the cluster; by default one is started on this machine, and ended with the last shard.

    Raises
    ------
    DataError
        If Ray Data is not installed, or fails.
    """
    try:
        import ray.data
    except ImportError as error:
        raise DataError(
            f"many files are converted by Ray Data, which is not installed ({error}); run: {EXTRA}"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with cluster(address, own_packages()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about settings of Ray's own that a copy touches
            context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        with ray.data.DataContext.current(context):
            items = [{"job": json.dumps(job)} for job in jobs]
            done = ray.data.from_items(items, override_num_blocks=len(items)).map(write_shard_of)
            try:
                for row in done.iter_rows():
                    yield str(row["problem"])
            except ray.exceptions.RayError as error:
                reason = printable_line(str(error).strip().rpartition("\n")[2] or type(error).__name__)
                raise DataError(f"Ray Data could not convert the files ({reason}); run the command again") from None
