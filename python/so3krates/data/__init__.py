"""Labelled structures on their way to the network: reading, splits, shifts, neighbours, batches."""

from .batches import (
    BatchShape,
    Buckets,
    FrameGraph,
    Targets,
    collate,
    frame_graph,
    frame_graphs,
    shortest_distance,
    sizes_of,
)
from .frames import DataError, LabelKeys, Labels, atom_values, iter_frames, labels, raw_frames, read_frames, with_labels
from .neighbours import NeighbourTable, neighbour_table
from .report import DataReport, data_report, report_tables
from .shifts import SHIFT_MODES, elements_of, energy_shifts, fit_shifts, total_shift
from .splits import Split, count_split, fraction_split
from .store import StoredFrames, StoredGraphs, store_frames

__all__ = [
    "SHIFT_MODES",
    "BatchShape",
    "Buckets",
    "DataError",
    "DataReport",
    "FrameGraph",
    "LabelKeys",
    "Labels",
    "NeighbourTable",
    "Split",
    "StoredFrames",
    "StoredGraphs",
    "Targets",
    "atom_values",
    "collate",
    "count_split",
    "data_report",
    "elements_of",
    "energy_shifts",
    "fit_shifts",
    "fraction_split",
    "frame_graph",
    "frame_graphs",
    "iter_frames",
    "labels",
    "neighbour_table",
    "raw_frames",
    "read_frames",
    "report_tables",
    "shortest_distance",
    "sizes_of",
    "store_frames",
    "total_shift",
    "with_labels",
]
