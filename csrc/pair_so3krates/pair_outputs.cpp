#include "pair_outputs.h"

#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/compute.h>
#include <lammps/error.h>
#include <lammps/modify.h>
#include <lammps/update.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

using namespace LAMMPS_NS;

namespace so3krates::deck {
namespace {

// Those that LAMMPS has commands for.
const std::set<std::string> kTallied = {"energy", "atom_energies", "forces", "strain_gradient", "atom_virials"};

MPI_Op operation_of(Ranks ranks) {
  return ranks == Ranks::min ? MPI_MIN : ranks == Ranks::max ? MPI_MAX : MPI_SUM;
}

}  // namespace

void PairOutputs::read(const Bundle& bundle) {
  bundle_ = &bundle;
  standard_.clear();
  system_.clear();
  system_size_ = 0;
  for (const auto& [name, output] : bundle.outputs) {
    if (!output.problem.empty()) continue;
    if (output.standard) standard_.push_back(name);
    if (output.per_atom || kTallied.count(name) > 0) continue;
    system_.push_back(name);
    system_size_ += static_cast<int>(output.width);
  }
  // A compute that was made for another bundle may read more of them.
  if (system_values_.size() < static_cast<std::size_t>(system_size_)) system_values_.resize(system_size_);
}

std::string PairOutputs::system_names() const {
  std::string text;
  int place = 0;
  for (const std::string& name : system_) {
    const Output& output = bundle_->outputs.at(name);
    for (std::int64_t k = 1; k <= output.width; k++)
      text += fmt::format("{}[{}] {}{} ({})", text.empty() ? "" : ", ", ++place, name,
                          output.width == 1 ? "" : fmt::format("[{}]", k), units_.name(output.unit));
  }
  return text;
}

PairOutputs::Field* PairOutputs::find(const std::string& name) {
  if (bundle_ == nullptr) return nullptr;
  std::string output = name;
  int entry = 0;
  const std::size_t bracket = name.find('[');
  if (bracket != std::string::npos && name.back() == ']') {
    output = name.substr(0, bracket);
    const std::string digits = name.substr(bracket + 1, name.size() - bracket - 2);
    if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos)
      return nullptr;
    entry = std::stoi(digits);
  }
  const auto found = bundle_->outputs.find(output);
  if (found == bundle_->outputs.end() || !found->second.per_atom || !found->second.problem.empty()) return nullptr;
  const auto width = static_cast<int>(found->second.width);
  if (entry > width || (entry == 0 && (width > 1 || bracket != std::string::npos))) return nullptr;
  Field& field = fields_[name];
  field.output = output;
  field.entry = std::max(entry - 1, 0);
  field.width = width;
  return &field;
}

int* PairOutputs::flag(const std::string& name) {
  constexpr const char* kEnd = "_flag";
  const std::size_t length = name.size() - std::min(name.size(), std::strlen(kEnd));
  if (name.substr(length) != kEnd) return nullptr;
  Field* field = find(name.substr(0, length));
  return field == nullptr ? nullptr : &field->flag;
}

double* PairOutputs::values(const std::string& name) {
  if (bundle_ == nullptr)
    lmp_->error->all(FLERR,
                     "pair_style so3krates: fix pair asks for {}, but no pair_coeff has named a potential yet. "
                     "Write the fix after pair_coeff",
                     name);
  Field* field = find(name);
  if (field == nullptr) {
    const auto output = bundle_->outputs.find(name.substr(0, name.find('[')));
    if (output != bundle_->outputs.end() && !output->second.problem.empty())
      lmp_->error->all(FLERR, "pair_style so3krates: {}: output {} {}", bundle_->path, output->first,
                       output->second.problem);
    std::string known;
    for (const auto& [own, of] : bundle_->outputs)
      if (of.per_atom && of.problem.empty())
        known += fmt::format("{}{}{}", known.empty() ? "" : ", ", own,
                             of.width == 1 ? "" : fmt::format("[1] to [{}]", of.width));
    lmp_->error->all(FLERR,
                     "pair_style so3krates: fix pair asks for {}, but {} has no such output of atoms. Write one of: {}",
                     name, bundle_->path, known);
  }
  // Outside of a run the fix only asks how many columns there will be.
  if (lmp_->update->whichflag != 0 && field->step != lmp_->update->ntimestep)
    lmp_->error->all(FLERR,
                     "pair_style so3krates: {} is only computed on steps that ask for it. Write: fix ... pair ... "
                     "so3krates {} 1",
                     name, name);
  return field->values.data();
}

bool PairOutputs::has_compute() const {
  const std::vector<Compute*>& computes = lmp_->modify->get_compute_list();
  return std::any_of(computes.begin(), computes.end(), [](const Compute* compute) {
    return std::strcmp(compute->style, "pair") == 0 && compute->vector_flag != 0;
  });
}

const std::vector<std::string>& PairOutputs::request(bool with_virials, bool with_energy,
                                                     const std::vector<std::string>& others) {
  request_ = others;
  if (with_virials) request_.emplace_back("atom_virials");
  for (const auto& [name, field] : fields_)
    if (field.flag != 0) request_.push_back(field.output);
  // LAMMPS' compute pair reads them on steps on which it has had energies tallied.
  if (with_energy && system_size_ > 0 && has_compute()) request_.insert(request_.end(), system_.begin(), system_.end());
  if (!request_.empty()) request_.insert(request_.end(), standard_.begin(), standard_.end());
  return request_;
}

void PairOutputs::keep(const Results& results, const std::vector<int>& atom_of_row, int owned) {
  for (auto& [name, field] : fields_) {
    if (field.flag == 0) continue;
    const double* values = results.find(field.output);
    field.values.assign(static_cast<std::size_t>(std::max(lmp_->atom->nlocal + lmp_->atom->nghost, 1)), 0.0);
    const double unit = units_.of(bundle_->outputs.at(field.output).unit);
    for (int row = 0; row < owned; row++)
      field.values[atom_of_row[row]] = unit * values[static_cast<std::size_t>(row) * field.width + field.entry];
    field.step = lmp_->update->ntimestep;
  }
  double* place = system_values_.data();
  for (const std::string& name : system_) {
    const Output& output = bundle_->outputs.at(name);
    const auto width = static_cast<int>(output.width);
    const double* values = results.find(name);
    if (values == nullptr) {
      std::fill_n(place, width, std::numeric_limits<double>::quiet_NaN());
    } else {
      MPI_Allreduce(values, place, width, MPI_DOUBLE, operation_of(output.ranks), lmp_->world);
      const double unit = lmp_->comm->me == 0 ? units_.of(output.unit) : 0.0;  // compute pair sums over ranks
      std::transform(place, place + width, place, [unit](double value) { return unit * value; });
    }
    place += width;
  }
}

}  // namespace so3krates::deck
