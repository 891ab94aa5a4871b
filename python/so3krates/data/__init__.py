"""Labelled structures on their way to the network: reading, splits, shifts, neighbours, batches."""

from .batches import (
    BatchShape,
    FrameGraph,
    Targets,
    collate,
    frame_graph,
    frame_graphs,
    sizes_of,
)
from .buckets import Buckets
from .charge_labels import ChargeLabels, charge_labels, known_labels, usable_dipole
from .errors import DataError
from .faults import Fault, LabelCheck, sound_frames, structure_faults
from .frames import (
    LabelKeys,
    Labels,
    atom_values,
    iter_frames,
    labels,
    last_frame,
    raw_frames,
    read_frames,
    require_file,
    with_labels,
)
from .held_out import held_out_doubts
from .neighbours import NeighbourTable, neighbour_table
from .pair_terms import shortest_distances, terms_of_atoms, without_terms
from .plain import finite
from .report import DataReport, data_report, report_tables
from .shifts import SHIFT_MODES, elements_of, energy_shifts, fit_shifts, total_shift
from .slopes import Finding, Slope
from .splits import Split, count_split, fraction_split
from .store import StoredFrames, StoredGraphs, store_frames
from .tags import tags_of, temperature_of

__all__ = [
    "SHIFT_MODES",
    "BatchShape",
    "Buckets",
    "ChargeLabels",
    "DataError",
    "DataReport",
    "Fault",
    "Finding",
    "FrameGraph",
    "LabelCheck",
    "LabelKeys",
    "Labels",
    "NeighbourTable",
    "Slope",
    "Split",
    "StoredFrames",
    "StoredGraphs",
    "Targets",
    "atom_values",
    "charge_labels",
    "collate",
    "count_split",
    "data_report",
    "elements_of",
    "energy_shifts",
    "finite",
    "fit_shifts",
    "fraction_split",
    "frame_graph",
    "frame_graphs",
    "held_out_doubts",
    "iter_frames",
    "known_labels",
    "labels",
    "last_frame",
    "neighbour_table",
    "raw_frames",
    "read_frames",
    "report_tables",
    "require_file",
    "shortest_distances",
    "sizes_of",
    "sound_frames",
    "store_frames",
    "structure_faults",
    "tags_of",
    "temperature_of",
    "terms_of_atoms",
    "total_shift",
    "usable_dipole",
    "with_labels",
    "without_terms",
]
