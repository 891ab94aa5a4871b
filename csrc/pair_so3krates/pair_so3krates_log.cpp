// What the pair style writes to LAMMPS' log.
#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>

#include <algorithm>
#include <cmath>

#include "exchange.h"
#include "pair_so3krates.h"

using namespace LAMMPS_NS;

namespace {

constexpr double MIB = 1024.0 * 1024.0;
constexpr double LARGE_SHIFT = 50.0;  // eV; energies per atom beyond it drown the heat flux in rounding and noise

}  // namespace

void PairSo3krates::log_potential() const {
  if (comm->me != 0) return;
  std::string types;
  for (int type = 1; type <= atom->ntypes; type++) {
    const int element = element_of_type_[type];
    types += fmt::format("{}{} = {}", type == 1 ? "" : ", ", type, element < 0 ? "NULL" : bundle_->elements[element]);
  }
  std::string terms;
  for (const std::string& term : bundle_->terms) terms += (terms.empty() ? "" : ", ") + term;
  if (!terms.empty()) terms = fmt::format("  terms       {}, lists reach {:g} A", terms, bundle_->reach);
  if (reads_all_atoms()) terms += fmt::format(", pairs without lists {:g} A", bundle_->atoms_reach);
  if (!terms.empty()) terms += "\n";
  utils::logmesg(lmp,
                 "So3krates potential {}\n  made by     {}\n  atom types  {}\n  cutoff      {:g} A, {} message-passing "
                 "steps\n{}  precision   {}\n  device      {}\n",
                 bundle_->path, bundle_->producer, types, bundle_->cutoff, bundle_->message_passing_steps, terms,
                 bundle_->precision, evaluator_->report().platform);
  for (const so3krates::Baseline& baseline : bundle_->baselines)
    utils::logmesg(lmp, "  baseline    {}, by the deck\n", baseline.meaning);
  const so3krates::Electrons& electrons = bundle_->electrons;
  if (!electrons.protons.empty())
    utils::logmesg(lmp, "  charge      {} e in all, multiplicity {}\n", electrons.charge, electrons.multiplicity);
  std::vector<bool> elements(bundle_->elements.size(), false);
  for (const int element : element_of_type_)
    if (element >= 0) elements[element] = true;
  utils::logmesg(lmp, "  guard       {}\n", guard_.description(*bundle_, elements));
  if (nextra > 0) utils::logmesg(lmp, "  compute pair {}\n", outputs_.system_names());
  const std::string& note = evaluator_->report().body_note;
  if (!note.empty()) utils::logmesg(lmp, "So3krates: {}\n", note);
}

// Says what the evaluator holds, after its first evaluation and whenever it has outgrown a capacity.
void PairSo3krates::log_report(const so3krates::Report& report) {
  if (report.climbs == reported_climbs_) return;
  if (comm->me == 0)
    utils::logmesg(lmp,
                   "So3krates: {}room for {} atoms ({} with images, {} candidates, {} neighbours each), {:.1f} MiB of "
                   "arrays, {:.1f} MiB of scratch; {} programs compiled and {} loaded in {:.1f} s\n",
                   reported_climbs_ < 0 ? "" : "a capacity was outgrown, now ", report.rung_rows, report.rung_atoms,
                   report.rung_candidates, report.rung_neighbours, report.buffer_bytes / MIB,
                   report.temporary_bytes / MIB, report.programs_compiled, report.programs_loaded,
                   report.compile_seconds);
  if (comm->me == 0 && reported_climbs_ < 0 && !report.halo_memory.empty())
    utils::logmesg(lmp, "So3krates: rows of other ranks go through {}: {}\n", report.halo_memory,
                   report.halo_problem.empty() ? exchange_->device_memory().reason : report.halo_problem);
  if (comm->me == 0 && reported_climbs_ < 0 && verbose_ && options_.device != "cpu" && !report.pin_problem.empty())
    utils::logmesg(lmp, "So3krates: transfers go by way of the plugin's own memory: {}\n", report.pin_problem);
  for (const std::string* warning : {&report.cache_warning, &report.unread_variables})
    if (comm->me == 0 && reported_climbs_ < 0 && !warning->empty())
      error->warning(FLERR, "pair_style so3krates: {}", *warning);
  reported_climbs_ = report.climbs;
}

// After each run: where this rank's time went.
void PairSo3krates::log_times() {
  const so3krates::Report& now = evaluator_->report();
  if (comm->me == 0)
    utils::logmesg(
        lmp,
        "So3krates: on rank 0, programs {:.3f} s, exchange of rows {:.3f} s ({:.3f} MiB), lists {:.3f} s, results "
        "{:.3f} s; {} of {} evaluations with per-atom virials; waited {:.3f} s for the device\n",
        now.program_seconds - reported_.program_seconds, now.halo_seconds - reported_.halo_seconds,
        (now.halo_bytes - reported_.halo_bytes) / MIB, now.list_seconds - reported_.list_seconds,
        now.result_seconds - reported_.result_seconds, now.virial_evaluations - reported_.virial_evaluations,
        now.evaluations - reported_.evaluations, now.wait_seconds - reported_.wait_seconds);
  reported_ = now;
}

// Energies of atoms carry heat where atoms move: constant shifts are then noise.
void PairSo3krates::warn_of_shifts() {
  if (has_warned_of_shifts_ || !options_.shifts || !cvflag_atom) return;
  has_warned_of_shifts_ = true;
  double largest = 0.0;
  for (const double shift : bundle_->energy_shifts) largest = std::max(largest, std::abs(shift));
  if (largest > LARGE_SHIFT && comm->me == 0)
    error->warning(FLERR,
                   "pair_style so3krates: energies per atom hold the shifts of the elements, up to {:.6g} eV, which "
                   "only add noise to a heat flux. Write: pair_style so3krates shifts no",
                   largest);
}
