// The methods are in the order in which LAMMPS calls them; those that speak to the log are in pair_so3krates_log.cpp,
// and what the words of pair_style mean in pair_so3krates_options.cpp.
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
#include <iterator>
#include <utility>

#include "crowding.h"
#include "deck_baselines.h"
#include "deck_checks.h"
#include "exchange.h"
#include "launcher.h"
#include "ranks.h"

using namespace LAMMPS_NS;
using namespace so3krates::ranks;

namespace {

// Components of LAMMPS' virials, xx yy zz xy xz yz and, per atom about centroids, yx zx zy: of the position, of the
// force.
constexpr int kFirst[9] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, kSecond[9] = {0, 1, 2, 1, 2, 2, 0, 0, 1};

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

}  // namespace

PairSo3krates::PairSo3krates(LAMMPS* lmp)
    : Pair(lmp), units_(lmp), outputs_(lmp), guard_(lmp), deviation_(lmp), save_(lmp) {
  single_enable = 0;  // the energy is no sum over pairs
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;  // forces never reach ghosts
  centroidstressflag = CENTROID_AVAIL;
  comm_forward = 2;  // a ghost learns its owner's rank and row
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
  reported(lmp, [&] {
    // A warning only: a program may well start independent runs this way.
    const std::string problem = so3krates::launcher_problem();
    if (!problem.empty()) error->warning(FLERR, "pair_style so3krates: {}", problem);
    read_options(narg, arg);
    words_ = joined({arg, arg + narg});
  });
}

void PairSo3krates::coeff(int narg, char** arg) {
  reported(lmp, [&] { read_potential(narg, arg); });
}

void PairSo3krates::read_potential(int narg, char** arg) {
  const int types = atom->ntypes;
  if (narg != 3 + types)
    error->all(FLERR,
               "pair_style so3krates: pair_coeff * * FILE.so3k wants one element (or NULL) for each of the {} atom "
               "types, not {}",
               types, std::max(narg - 3, 0));

  file_ = arg[2];
  so3krates::deck::check_letters(file_);
  const std::string found = utils::get_potential_file_path(file_);
  reported_together(lmp, [&] {
    bundle_ = std::make_unique<so3krates::Bundle>(so3krates::Bundle::read(found.empty() ? file_ : found));
  });
  own_electrons_ = bundle_->electrons;
  evaluator_.reset();
  outputs_.read(*bundle_);
  guard_.read(*bundle_);
  deviation_.read(*bundle_);
  save_.read(*bundle_);
  nextra = outputs_.system_size();
  pvector = outputs_.system_values();

  const std::vector<std::string>& elements = bundle_->elements;
  element_of_type_.assign(types + 1, -1);
  symbol_of_type_.assign(types + 1, "");
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
    const auto element = std::find(elements.begin(), elements.end(), symbol);
    if (element == elements.end())
      error->all(FLERR,
                 "pair_style so3krates: atom type {} is '{}' but {} knows only: {}. Use one of these, or NULL for a "
                 "type that another pair style of pair_style hybrid treats",
                 type, symbol, file_, joined(elements));
    element_of_type_[type] = static_cast<int>(element - elements.begin());
    symbol_of_type_[type] = symbol;
  }
  if (*std::max_element(element_of_type_.begin(), element_of_type_.end()) < 0)
    error->all(FLERR,
               "pair_style so3krates: every atom type is NULL in pair_coeff * * {}. Give at least one type an element "
               "({}), or leave so3krates out of pair_style hybrid",
               file_, joined(elements));

  if (!allocated) allocate();
  for (int i = 1; i <= types; i++)
    for (int j = 1; j <= types; j++) setflag[i][j] = element_of_type_[i] >= 0 && element_of_type_[j] >= 0;
}

void PairSo3krates::init_style() {
  if (!units_.are_known())
    error->all(FLERR,
               "pair_style so3krates: the deck has units {}, and {} is for units metal (eV, A, ps) and units real "
               "(kcal/mol, A, fs). Write one of these",
               update->unit_style, file_);
  reported(lmp, [&] {
    guard_.begin_run();
    deviation_.begin_run();
    save_.begin_run();
    if (!evaluator_) choose_electrons();
    check_deck();
    neighbor->add_request(this, NeighConst::REQ_FULL);
    // Ghosts beyond lists, as `comm_modify cutoff` brings them.
    if (reads_all_atoms()) comm->cutghostuser = std::max(comm->cutghostuser, bundle_->atoms_reach + neighbor->skin);
    if (!evaluator_) open_evaluator();
  });
}

void PairSo3krates::check_deck() {
  for (const std::string& reason :
       {so3krates::deck::missing_ghosts(lmp, *bundle_), so3krates::deck::second_coulomb(lmp, *bundle_, *this),
        so3krates::deck::missing_baselines(lmp, *bundle_, {words_, file_, symbol_of_type_})})
    if (!reason.empty()) error->all(FLERR, "pair_style so3krates: {}", reason);

  for (const std::string& doubt :
       {so3krates::deck::odd_timestep(lmp), so3krates::deck::hidden_atoms(lmp),
        so3krates::deck::contradicting_masses(lmp, symbol_of_type_), so3krates::deck::charged_cell(lmp, *bundle_),
        so3krates::deck::other_charges(lmp, *bundle_)})
    if (!doubt.empty() && warned_.insert(doubt).second && comm->me == 0)
      error->warning(FLERR, "pair_style so3krates: {}", doubt);
}

void PairSo3krates::open_evaluator() {
  so3krates::EvaluatorOptions options = options_;
  const Machine machine = machine_of(lmp);
  if (options.threads == 0) {
    options.threads = machine.threads;
    options.has_default_threads = true;
  }
  options.local_rank = machine.rank;
  exchange_.reset();
  if (comm->nprocs > 1) {
    exchange_ = std::make_unique<Exchange>(world, device_memory(gpu_aware_, options_.device, machine.ranks));
    const std::string& warning = exchange_->device_memory().warning;
    if (comm->me == 0 && !warning.empty()) error->warning(FLERR, "pair_style so3krates: {}", warning);
  }
  std::unique_ptr<so3krates::Evaluator> opened;
  reported_together(lmp, [&] { opened = std::make_unique<so3krates::Evaluator>(*bundle_, options); });
  evaluator_ = std::move(opened);        // on all ranks or on none
  int gpus = evaluator_->report().gpus;  // the first rank of a machine does not count them
  MPI_Allreduce(MPI_IN_PLACE, &gpus, 1, MPI_INT, MPI_MAX, world);
  const int threads = options.device == "cpu" ? options.threads : 1;
  if (const std::string crowd = crowding(machine.ranks, threads, machine.cores, gpus);
      !crowd.empty() && warned_.insert(crowd).second && comm->me == 0)
    error->warning(FLERR, "pair_style so3krates: {}", crowd);
  known_list_ = nullptr;
  reported_climbs_ = -1;
  reported_ = {};
  has_warned_of_shifts_ = false;
  log_potential();
}

double PairSo3krates::init_one(int /*i*/, int /*j*/) {
  return bundle_->reach;
}

void PairSo3krates::compute(int eflag, int vflag) {
  if (!evaluator_)
    error->all(FLERR,
               "pair_style so3krates: pair_style or pair_coeff has changed since the last run. Run without `pre no`");
  ev_init(eflag, vflag);
  reported(lmp, [&] { evaluate(); });
}

void PairSo3krates::evaluate() {
  if (lists_are_new()) {
    check_lists();
    number_rows();
    update_lists();
    set_neighbourhood();
    check_electrons();
  } else if (types_have_changed()) {
    set_neighbourhood();
  }
  const bool with_virials = vflag_atom || cvflag_atom;
  if (with_virials) warn_of_shifts();
  request_.clear();
  guard_.request(request_);
  deviation_.request(request_);
  save_.request(request_);
  const double* positions = row_of_atom_.empty() ? nullptr : atom->x[0];
  const so3krates::Results& results = [&]() -> const so3krates::Results& {
    try {
      return evaluator_->evaluate(positions, exchange_.get(),
                                  outputs_.request(with_virials, eflag_global != 0, request_));
    } catch (const so3krates::StructureError& failure) {
      const auto name = [this](int i) { return name_of(i); };
      throw so3krates::Error(fmt::format("step {}: {}", update->ntimestep, failure.message(name)));
    }
  }();
  tally(results);
  outputs_.keep(results, atom_of_row_, owned_);
  deviation_.keep(results, owned_);
  const so3krates::StructureError::NameOf names = [this](int i) { return name_of(i); };
  const so3krates::deck::Computed computed = {
      results, atom_of_row_, owned_, symbol_of_type_, names, bundle_->baselines.empty() ? "forces" : "network_forces"};
  save_.keep(computed);
  guard_.look(computed);
  log_report(evaluator_->report());
}

// All ranks come to the same answer.
bool PairSo3krates::lists_are_new() const {
  return neighbor->ago == 0 || neighbor->lastcall != known_build_ || list != known_list_;
}

// Types may change between rebuilds (fix atom/swap).
bool PairSo3krates::types_have_changed() const {
  for (std::size_t row = 0; row < species_.size(); row++)
    if (species_[row] != element_of_type_[atom->type[atom_of_row_[row]]]) return true;
  return false;
}

// Bonds may be made in a run, and fixes may leave atoms in disorder.
void PairSo3krates::check_lists() const {
  std::vector<bool> is_treated;
  for (const int element : element_of_type_) is_treated.push_back(element >= 0);
  for (const std::string& reason :
       {so3krates::deck::missing_partners(lmp, is_treated), so3krates::deck::mixed_trials(lmp),
        so3krates::deck::short_baselines(lmp, *bundle_, symbol_of_type_)})
    if (!reason.empty()) fail(lmp, fmt::format("pair_style so3krates: step {}: {}", update->ntimestep, reason));

  const int *begin = list->ilist, *end = begin + list->inum;
  const int* strange = std::find_if_not(begin, end, [this](int i) { return is_counted(i); });
  if (strange != end && !so3krates::deck::is_on_trial(lmp))
    fail(lmp, fmt::format("pair_style so3krates: step {}: atom {} is not in group all, as if a fix had taken it out on "
                          "trial and then put back another",
                          update->ntimestep, atom->tag_enable ? atom->tag[*strange] : *strange + 1));
}

// Fixes that try what the energy is without an atom take it out of all groups but one, which lists exclude.
bool PairSo3krates::is_counted(int i) const {
  constexpr int ALL = 1;
  return atom->mask[i] & ALL;
}

// Every atom learns its row. A ghost learns from its owner whose it is, so that no atom map is needed: images of own
// atoms have their row; all images of another rank's atom share a further one, if a list has any of them, or all atoms
// are read.
void PairSo3krates::number_rows() {
  const int atoms = atom->nlocal + atom->nghost;
  owner_rank_.assign(atoms, comm->me);
  row_of_atom_.assign(atoms, -1);
  atom_of_row_.clear();
  std::copy_if(list->ilist, list->ilist + list->inum, std::back_inserter(atom_of_row_),
               [this](int i) { return is_counted(i); });
  owned_ = static_cast<int>(atom_of_row_.size());
  for (int row = 0; row < owned_; row++) row_of_atom_[atom_of_row_[row]] = row;
  comm->forward_comm(this);
  if (!exchange_) return;

  std::vector<bool> is_listed(atoms, reads_all_atoms());
  for (const int i : atom_of_row_)
    for (int k = 0; k < list->numneigh[i]; k++) is_listed[list->firstneigh[i][k] & NEIGHMASK] = true;
  std::vector<std::pair<std::pair<int, int>, int>> ghosts;  // rank, its row, atom
  for (int i = atom->nlocal; i < atoms; i++) {
    if (owner_rank_[i] == comm->me) continue;
    if (is_listed[i] && row_of_atom_[i] >= 0) ghosts.push_back({{owner_rank_[i], row_of_atom_[i]}, i});
    row_of_atom_[i] = -1;
  }
  std::sort(ghosts.begin(), ghosts.end());
  std::vector<std::pair<int, int>> others;
  for (const auto& [owner, i] : ghosts) {
    if (others.empty() || others.back() != owner) {
      others.push_back(owner);
      atom_of_row_.push_back(i);
    }
    row_of_atom_[i] = static_cast<int>(atom_of_row_.size()) - 1;
  }
  exchange_->plan(others);
}

void PairSo3krates::update_lists() {
  candidate_count_.resize(owned_);
  candidates_.resize(owned_);
  std::size_t entries = 0;
  for (int row = 0; row < owned_; row++) {
    const int i = atom_of_row_[row];
    candidate_count_[row] = list->numneigh[i];
    candidates_[row] = list->firstneigh[i];
    entries += list->numneigh[i];
  }

  if (atom->molecular != Atom::ATOMIC) {
    unmasked_.resize(entries);
    int* next = unmasked_.data();
    for (int row = 0; row < owned_; row++) {
      const int* masked = candidates_[row];
      candidates_[row] = next;
      next = std::transform(masked, masked + candidate_count_[row], next, [](int j) { return j & NEIGHMASK; });
    }
  }

  known_list_ = list;
  known_build_ = neighbor->lastcall;
  if (verbose_ && comm->me == 0)
    utils::logmesg(
        lmp, "So3krates: step {}: {}{} atoms, {} rows of other ranks, {} with images, on average {:.1f} candidates\n",
        update->ntimestep, comm->nprocs > 1 ? "rank 0 has " : "", owned_, atom_of_row_.size() - owned_,
        row_of_atom_.size(), owned_ == 0 ? 0.0 : static_cast<double>(entries) / owned_);
}

void PairSo3krates::choose_electrons() {
  if (own_electrons_.protons.empty() && !charge_ && !multiplicity_) return;
  bundle_->set_electrons(charge_.value_or(own_electrons_.charge), multiplicity_.value_or(own_electrons_.multiplicity));
}

// Of all ranks' atoms; on one rank the evaluator looks.
void PairSo3krates::check_electrons() const {
  if (!exchange_ || bundle_->electrons.protons.empty()) return;
  long protons = bundle_->protons_of(species_.data(), owned_);
  MPI_Allreduce(MPI_IN_PLACE, &protons, 1, MPI_LONG, MPI_SUM, world);
  reported_together(lmp, [&] { bundle_->check_electrons(protons); });
}

void PairSo3krates::set_neighbourhood() {
  species_.resize(atom_of_row_.size());
  for (std::size_t row = 0; row < species_.size(); row++)
    species_[row] = element_of_type_[atom->type[atom_of_row_[row]]];
  const auto strange = std::find(species_.begin(), species_.end(), -1) - species_.begin();
  if (strange < static_cast<std::ptrdiff_t>(species_.size())) {
    const int i = atom_of_row_[strange];
    fail(lmp,
         fmt::format("pair_style so3krates: step {}: atom {} has become type {}, which is NULL for this pair style, "
                     "while it is in its neighbour list. Build the lists anew when types change: "
                     "neigh_modify every 1 check no",
                     update->ntimestep, atom->tag_enable ? atom->tag[i] : i + 1, atom->type[i]));
  }

  so3krates::Neighbourhood neighbourhood;
  neighbourhood.owned = owned_;
  neighbourhood.rows = static_cast<int>(atom_of_row_.size());
  neighbourhood.atoms = static_cast<int>(row_of_atom_.size());
  neighbourhood.row_of_atom = row_of_atom_.data();
  neighbourhood.atom_of_row = atom_of_row_.data();
  neighbourhood.species = species_.data();
  neighbourhood.candidate_count = candidate_count_.data();
  neighbourhood.candidates = candidates_.data();
  neighbourhood.skin = neighbor->skin;
  if (exchange_) {
    neighbourhood.peers = exchange_->peers().data();
    neighbourhood.peer_count = static_cast<int>(exchange_->peers().size());
  }
  evaluator_->set_neighbourhood(neighbourhood);
}

int PairSo3krates::pack_forward_comm(int n, int* atoms, double* buffer, int /*pbc_flag*/, int* /*pbc*/) {
  for (int k = 0; k < n; k++) {
    *buffer++ = owner_rank_[atoms[k]];
    *buffer++ = row_of_atom_[atoms[k]];
  }
  return 2 * n;
}

void PairSo3krates::unpack_forward_comm(int n, int first, double* buffer) {
  for (int k = 0; k < n; k++) {
    owner_rank_[first + k] = static_cast<int>(*buffer++);
    row_of_atom_[first + k] = static_cast<int>(*buffer++);
  }
}

std::string PairSo3krates::name_of(int i) const {
  const std::string id = atom->tag_enable ? std::to_string(atom->tag[i]) : std::to_string(i + 1);
  const int element = element_of_type_[atom->type[i]];
  return fmt::format("atom {} ({}, type {})", id, element < 0 ? "NULL" : bundle_->elements[element], atom->type[i]);
}

void PairSo3krates::tally(const so3krates::Results& results) {
  const double* force = results.forces;
  const double unit = units_.energy();
  for (int row = 0; row < owned_; row++)
    for (int k = 0; k < 3; k++) atom->f[atom_of_row_[row]][k] += unit * *force++;

  if (eflag_global) eng_vdwl += unit * results.energy;
  if (eflag_atom)
    for (int row = 0; row < owned_; row++) eatom[atom_of_row_[row]] += unit * results.atom_energies[row];
  if (vflag_global) {
    const auto& g = results.strain_gradient;
    for (int k = 0; k < 6; k++) virial[k] -= 0.5 * unit * (g[kFirst[k]][kSecond[k]] + g[kSecond[k]][kFirst[k]]);
  }
  if (vflag_atom || cvflag_atom)
    for (int row = 0; row < owned_; row++) {
      const int i = atom_of_row_[row];
      const double* w =
          results.atom_virials + 9 * static_cast<std::size_t>(row);  // [position component][force component]
      const auto entry = [w, unit](int a, int b) { return unit * w[3 * a + b]; };
      if (vflag_atom)
        for (int k = 0; k < 6; k++) vatom[i][k] += 0.5 * (entry(kFirst[k], kSecond[k]) + entry(kSecond[k], kFirst[k]));
      if (cvflag_atom)
        for (int k = 0; k < 9; k++) cvatom[i][k] += entry(kFirst[k], kSecond[k]);
    }
}

void* PairSo3krates::extract(const char* name, int& dimension) {
  dimension = 0;
  return reported(lmp, [&] { return outputs_.flag(name); });
}

void* PairSo3krates::extract_peratom(const char* name, int& columns) {
  columns = 0;
  return reported(lmp, [&] { return outputs_.values(name); });
}

void PairSo3krates::finish() {
  reported(lmp, [&] {
    const std::string saved = save_.summary();
    if (comm->me == 0 && !saved.empty()) utils::logmesg(lmp, "So3krates: {}\n", saved);
    if (verbose_ && evaluator_) log_times();
  });
}

double PairSo3krates::memory_usage() {
  const auto bytes = [](const auto& values) { return static_cast<double>(values.capacity() * sizeof(values[0])); };
  // The evaluator's own memory may be a device's, and is in the log.
  return Pair::memory_usage() + bytes(row_of_atom_) + bytes(atom_of_row_) + bytes(owner_rank_) + bytes(species_) +
         bytes(candidate_count_) + bytes(candidates_) + bytes(unmasked_);
}
