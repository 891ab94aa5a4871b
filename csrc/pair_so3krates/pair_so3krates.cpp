// The methods are in the order in which LAMMPS calls them.
#include "pair_so3krates.h"

#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/error.h>
#include <lammps/force.h>
#include <lammps/memory.h>
#include <lammps/neigh_list.h>
#include <lammps/neighbor.h>
#include <lammps/update.h>

#include <algorithm>
#include <cmath>

using namespace LAMMPS_NS;

namespace {

constexpr double MIB = 1024.0 * 1024.0;

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// Ends the run. On one rank cleanly, so that a Python program may go on; where other ranks may not have failed, at
// once.
[[noreturn]] void fail(LAMMPS* lmp, const std::string& message) {
  if (lmp->comm->nprocs == 1) lmp->error->all(FLERR, message);
  lmp->error->one(FLERR, message);
}

// Calls `call` and turns a failure of the runtime into LAMMPS' error.
template <typename Call>
auto reported(LAMMPS* lmp, Call&& call) {
  try {
    return call();
  } catch (const so3krates::Error& failure) {
    fail(lmp, std::string("pair_style so3krates: ") + failure.what());
  }
}

}  // namespace

PairSo3krates::PairSo3krates(LAMMPS* lmp) : Pair(lmp) {
  single_enable = 0;  // the energy is no sum over pairs
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;  // forces never reach ghosts
  centroidstressflag = CENTROID_NOTAVAIL;
  comm_forward = 1;
}

PairSo3krates::~PairSo3krates() {
  if (!allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairSo3krates::allocate() {
  const int types = atom->ntypes;
  memory->create(setflag, types + 1, types + 1, "pair:setflag");
  memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
  allocated = 1;
}

void PairSo3krates::settings(int narg, char** arg) {
  const char* known = "device cpu|cuda[:INDEX], threads N, cache DIR|off, plugin PATH, verbose yes|no";
  options_ = {};
  verbose_ = false;
  for (int i = 0; i < narg; i += 2) {
    const std::string key = arg[i];
    if (i + 1 == narg) error->all(FLERR, "pair_style so3krates: option '{}' has no value. Options: {}", key, known);
    const std::string value = arg[i + 1];
    if (key == "device")
      options_.device = value;
    else if (key == "threads")
      options_.threads = utils::inumeric(FLERR, value, false, lmp);
    else if (key == "cache")
      options_.cache = value;
    else if (key == "plugin")
      options_.plugin = value;
    else if (key == "verbose")
      verbose_ = utils::logical(FLERR, value, false, lmp) != 0;
    else
      error->all(FLERR, "pair_style so3krates: unknown option '{}'. Options: {}", key, known);
  }
  if (options_.threads < 0)
    error->all(FLERR, "pair_style so3krates: threads {} is negative. Give at least 1, or 0 for every core",
               options_.threads);
  evaluator_.reset();
}

void PairSo3krates::coeff(int narg, char** arg) {
  const int types = atom->ntypes;
  if (narg != 3 + types)
    error->all(FLERR,
               "pair_style so3krates: pair_coeff * * FILE.so3k wants one element (or NULL) for each of the {} atom "
               "types, not {}",
               types, std::max(narg - 3, 0));

  file_ = arg[2];
  const std::string found = utils::get_potential_file_path(file_);
  bundle_ = reported(lmp, [&] {
    return std::make_unique<const so3krates::Bundle>(so3krates::Bundle::read(found.empty() ? file_ : found));
  });
  evaluator_.reset();

  element_of_type_.assign(types + 1, -1);
  for (int type = 1; type <= types; type++) {
    const std::string symbol = arg[2 + type];
    if (symbol == "NULL") {
      if (force->pair == this)
        error->all(
            FLERR,
            "pair_style so3krates: atom type {} is NULL. Give it an element, or use pair_style hybrid and another "
            "style for this type",
            type);
      continue;
    }
    const auto& elements = bundle_->elements;
    const auto element = std::find(elements.begin(), elements.end(), symbol);
    if (element == elements.end())
      error->all(FLERR,
                 "pair_style so3krates: atom type {} is '{}' but {} knows only: {}. Use one of these, or NULL for a "
                 "type that another pair style of pair_style hybrid treats",
                 type, symbol, file_, joined(elements));
    element_of_type_[type] = static_cast<int>(element - elements.begin());
  }

  if (!allocated) allocate();
  for (int i = 1; i <= types; i++)
    for (int j = 1; j <= types; j++) setflag[i][j] = element_of_type_[i] >= 0 && element_of_type_[j] >= 0;
}

void PairSo3krates::init_style() {
  if (comm->nprocs > 1)
    error->all(
        FLERR,
        "pair_style so3krates: {} MPI ranks, but this version runs on one. Start LAMMPS without mpiexec (it uses "
        "the cores of the machine as threads)",
        comm->nprocs);
  if (bundle_->units != update->unit_style)
    error->all(FLERR, "pair_style so3krates: the deck has units {} but {} is in units {}. Write: units {}",
               update->unit_style, file_, bundle_->units, bundle_->units);
  if (atom->nbonds > 0)
    for (int i = 1; i <= 3; i++)
      if (force->special_lj[i] == 0.0 && force->special_coul[i] == 0.0)
        error->all(
            FLERR,
            "pair_style so3krates: special_bonds removes 1-{} neighbours of bonded atoms, but the potential needs "
            "all. Write: special_bonds lj/coul 1 1 1",
            i + 1);
  if (neighbor->nex_type + neighbor->nex_group + neighbor->nex_mol > 0 && comm->me == 0)
    error->warning(
        FLERR,
        "pair_style so3krates: neigh_modify exclude hides atoms from each other, so the energy is not that of "
        "the potential");

  neighbor->add_request(this, NeighConst::REQ_FULL);

  if (evaluator_) return;
  evaluator_ = reported(lmp, [&] { return std::make_unique<so3krates::Evaluator>(*bundle_, options_); });
  known_list_ = nullptr;
  reported_climbs_ = -1;
  log_potential();
}

double PairSo3krates::init_one(int /*i*/, int /*j*/) {
  return bundle_->cutoff;
}

void PairSo3krates::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  if (vflag_atom)
    error->all(
        FLERR,
        "pair_style so3krates: per-atom virials (compute stress/atom, compute heat/flux) are not provided by this "
        "version. Remove that compute; pressure and compute pe/atom work");
  if (list->inum == 0) return;

  if (neighbourhood_is_stale()) update_neighbourhood();
  const so3krates::Results& results =
      reported(lmp, [&]() -> const so3krates::Results& { return evaluator_->evaluate(atom->x[0]); });
  check_finite(results);
  tally(results);
  log_report(evaluator_->report());
}

bool PairSo3krates::neighbourhood_is_stale() const {
  const std::size_t atoms = atom->nlocal + atom->nghost;
  if (neighbor->ago == 0 || neighbor->lastcall != known_build_ || list != known_list_ || row_of_atom_.size() != atoms ||
      species_.size() != static_cast<std::size_t>(list->inum))
    return true;
  // Types may change between rebuilds (fix atom/swap).
  for (int row = 0; row < list->inum; row++)
    if (species_[row] != element_of_type_[atom->type[list->ilist[row]]]) return true;
  return false;
}

// Every atom learns its row; a ghost learns it from its owner, so that no atom map is needed.
void PairSo3krates::number_rows() {
  row_of_atom_.assign(atom->nlocal + atom->nghost, -1);
  for (int row = 0; row < list->inum; row++) row_of_atom_[list->ilist[row]] = row;
  comm->forward_comm(this);
  // Atoms of another pair style are in no list: any row will do, as it is never read.
  std::replace(row_of_atom_.begin(), row_of_atom_.end(), -1, 0);
}

int PairSo3krates::pack_forward_comm(int n, int* atoms, double* buffer, int /*pbc_flag*/, int* /*pbc*/) {
  for (int k = 0; k < n; k++) buffer[k] = row_of_atom_[atoms[k]];
  return n;
}

void PairSo3krates::unpack_forward_comm(int n, int first, double* buffer) {
  for (int k = 0; k < n; k++) row_of_atom_[first + k] = static_cast<int>(buffer[k]);
}

void PairSo3krates::update_neighbourhood() {
  number_rows();

  const int rows = list->inum;
  species_.resize(rows);
  candidate_count_.resize(rows);
  candidates_.resize(rows);
  std::size_t entries = 0;
  for (int row = 0; row < rows; row++) {
    const int i = list->ilist[row];
    species_[row] = element_of_type_[atom->type[i]];
    candidate_count_[row] = list->numneigh[i];
    candidates_[row] = list->firstneigh[i];
    entries += list->numneigh[i];
  }

  if (atom->molecular != Atom::ATOMIC) {
    unmasked_.resize(entries);
    int* next = unmasked_.data();
    for (int row = 0; row < rows; row++) {
      const int* masked = candidates_[row];
      candidates_[row] = next;
      next = std::transform(masked, masked + candidate_count_[row], next, [](int j) { return j & NEIGHMASK; });
    }
  }

  so3krates::Neighbourhood neighbourhood;
  neighbourhood.owned = rows;
  neighbourhood.rows = rows;
  neighbourhood.atoms = static_cast<int>(row_of_atom_.size());
  neighbourhood.row_of_atom = row_of_atom_.data();
  neighbourhood.atom_of_row = list->ilist;
  neighbourhood.species = species_.data();
  neighbourhood.candidate_count = candidate_count_.data();
  neighbourhood.candidates = candidates_.data();
  reported(lmp, [&] { evaluator_->set_neighbourhood(neighbourhood); });

  known_list_ = list;
  known_build_ = neighbor->lastcall;
  if (verbose_ && comm->me == 0)
    utils::logmesg(lmp, "So3krates: step {}: {} atoms, {} with images, at most {} and on average {:.1f} candidates\n",
                   update->ntimestep, rows, neighbourhood.atoms,
                   *std::max_element(candidate_count_.begin(), candidate_count_.end()),
                   static_cast<double>(entries) / rows);
}

void PairSo3krates::check_finite(const so3krates::Results& results) const {
  const char* advice =
      "The structure has left what the potential was trained on: use a smaller timestep, minimize first, check the "
      "order of the elements in pair_coeff, or train on such structures";
  for (int row = 0; row < list->inum; row++) {
    const double* f = results.forces + 3 * row;
    if (std::isfinite(f[0]) && std::isfinite(f[1]) && std::isfinite(f[2]) && std::isfinite(results.atom_energies[row]))
      continue;
    const int i = list->ilist[row];
    const double* x = atom->x[i];
    fail(lmp,
         fmt::format(
             "pair_style so3krates: step {}: energy {} eV and force ({}, {}, {}) eV/A on atom {} ({}, type {}) at "
             "({:.6g}, {:.6g}, {:.6g}) A are not finite. {}",
             update->ntimestep, results.atom_energies[row], f[0], f[1], f[2], atom->tag_enable ? atom->tag[i] : i + 1,
             bundle_->elements[species_[row]], atom->type[i], x[0], x[1], x[2], advice));
  }
  if (!std::isfinite(results.energy))
    fail(lmp, fmt::format("pair_style so3krates: step {}: the total energy is {}. {}", update->ntimestep,
                          results.energy, advice));
}

void PairSo3krates::tally(const so3krates::Results& results) {
  for (int row = 0; row < list->inum; row++)
    for (int k = 0; k < 3; k++) atom->f[list->ilist[row]][k] += results.forces[3 * row + k];

  if (eflag_global) eng_vdwl += results.energy;
  if (eflag_atom)
    for (int row = 0; row < list->inum; row++) eatom[list->ilist[row]] += results.atom_energies[row];
  if (vflag_global) {
    const int first[6] = {0, 1, 2, 0, 0, 1}, second[6] = {0, 1, 2, 1, 2, 2};
    const auto& g = results.strain_gradient;
    for (int k = 0; k < 6; k++) virial[k] -= 0.5 * (g[first[k]][second[k]] + g[second[k]][first[k]]);
  }
}

void PairSo3krates::log_potential() const {
  if (comm->me != 0) return;
  std::string types;
  for (int type = 1; type <= atom->ntypes; type++) {
    const int element = element_of_type_[type];
    types += fmt::format("{}{} = {}", type == 1 ? "" : ", ", type, element < 0 ? "NULL" : bundle_->elements[element]);
  }
  utils::logmesg(lmp,
                 "So3krates potential {}\n  made by     {}\n  atom types  {}\n  cutoff      {:g} A, {} message-passing "
                 "steps\n  precision   {}\n  device      {}\n",
                 bundle_->path, bundle_->producer, types, bundle_->cutoff, bundle_->message_passing_steps,
                 bundle_->precision, evaluator_->report().platform);
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
  if (comm->me == 0 && reported_climbs_ < 0 && !report.cache_warning.empty())
    error->warning(FLERR, "pair_style so3krates: {}", report.cache_warning);
  reported_climbs_ = report.climbs;
}

double PairSo3krates::memory_usage() {
  const auto bytes = [](const auto& values) { return static_cast<double>(values.capacity() * sizeof(values[0])); };
  // The evaluator's own memory may be a device's, and is in the log.
  return Pair::memory_usage() + bytes(row_of_atom_) + bytes(species_) + bytes(candidate_count_) + bytes(candidates_) +
         bytes(unmasked_);
}
