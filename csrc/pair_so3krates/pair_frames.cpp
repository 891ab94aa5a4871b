#include "pair_frames.h"

#include <lammps/atom.h>
#include <lammps/comm.h>
#include <lammps/domain.h>
#include <lammps/error.h>
#include <lammps/update.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

namespace so3krates::deck {
namespace {

constexpr const char* kColumnsOfAll = "Properties=species:S:1:pos:R:3:id:I:1:";
constexpr int kColumns = 9;  // of an atom: id, type, position, force, output

std::vector<double> own_rows(LAMMPS* lmp, const Computed& computed, const double* output) {
  const auto& atom = *lmp->atom;
  std::vector<double> rows(kColumns * static_cast<std::size_t>(atom.nlocal), 0.0);
  for (int i = 0; i < atom.nlocal; i++) {
    double* row = &rows[kColumns * static_cast<std::size_t>(i)];
    row[0] = atom.tag_enable ? static_cast<double>(atom.tag[i]) : 0.0;
    row[1] = atom.type[i];
    std::copy_n(atom.x[i], 3, row + 2);
  }
  for (int r = 0; r < computed.owned; r++) {
    double* row = &rows[kColumns * static_cast<std::size_t>(computed.atom_of_row[r])];
    std::copy_n(computed.results.forces + 3 * static_cast<std::size_t>(r), 3, row + 5);
    if (output != nullptr) row[8] = output[r];
  }
  return rows;
}

// On rank 0 those of all ranks, by id.
std::vector<double> gathered(LAMMPS* lmp, const std::vector<double>& own) {
  const int ranks = lmp->comm->nprocs, count = static_cast<int>(own.size());
  std::vector<int> counts(ranks), places(ranks, 0);
  MPI_Gather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, lmp->world);
  std::vector<double> all;
  if (lmp->comm->me == 0) {
    for (int rank = 1; rank < ranks; rank++) places[rank] = places[rank - 1] + counts[rank - 1];
    all.resize(static_cast<std::size_t>(places.back()) + counts.back());
  }
  MPI_Gatherv(own.data(), count, MPI_DOUBLE, all.data(), counts.data(), places.data(), MPI_DOUBLE, 0, lmp->world);
  std::vector<std::size_t> order(all.size() / kColumns);
  for (std::size_t k = 0; k < order.size(); k++) order[k] = k;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::make_pair(all[kColumns * a], a) < std::make_pair(all[kColumns * b], b);
  });
  std::vector<double> sorted;
  sorted.reserve(all.size());
  for (const std::size_t k : order) sorted.insert(sorted.end(), &all[kColumns * k], &all[kColumns * k] + kColumns);
  return sorted;
}

std::string head(LAMMPS* lmp, const std::string& comment, const std::string& forces, const std::string& output) {
  const auto& box = *lmp->domain;
  const double* h = box.h;  // xx yy zz yz xz xy
  std::string text = fmt::format(
      "Lattice=\"{:.16g} 0 0 {:.16g} {:.16g} 0 {:.16g} {:.16g} {:.16g}\" "
      "{}{}:R:3",
      h[0], box.triclinic ? h[5] : 0.0, h[1], box.triclinic ? h[4] : 0.0, box.triclinic ? h[3] : 0.0, h[2],
      kColumnsOfAll, forces);
  if (!output.empty()) text += fmt::format(":{}:R:1", output);
  text += fmt::format(" step={} pbc=\"{} {} {}\"", lmp->update->ntimestep, box.xperiodic ? "T" : "F",
                      box.yperiodic ? "T" : "F", box.zperiodic ? "T" : "F");
  return text + " " + comment + "\n";
}

}  // namespace

std::string write_frame(LAMMPS* lmp, const Computed& computed, const std::string& path, bool append,
                        const std::string& comment, const std::string& output) {
  const double* values = output.empty() ? nullptr : computed.results.find(output);
  const std::vector<double> rows = gathered(lmp, own_rows(lmp, computed, values));
  if (lmp->comm->me != 0) return {};
  std::string text = fmt::format("{}\n", rows.size() / kColumns) + head(lmp, comment, computed.forces, output);
  for (std::size_t place = 0; place < rows.size(); place += kColumns) {
    const double* row = &rows[place];
    const std::string& element = computed.element_of_type[static_cast<std::size_t>(row[1])];
    text += fmt::format("{:<2} {:.16g} {:.16g} {:.16g} {:.0f} {:.16g} {:.16g} {:.16g}", element.empty() ? "X" : element,
                        row[2], row[3], row[4], row[0], row[5], row[6], row[7]);
    text += output.empty() ? "\n" : fmt::format(" {:.16g}\n", row[8]);
  }
  errno = 0;
  std::ofstream file(path, std::ios::binary | (append ? std::ios::app : std::ios::trunc));
  file << text << std::flush;
  if (file) return {};
  return errno != 0 ? std::strerror(errno) : "no reason is known";
}

bool takes_frames(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string count, comment;
  std::getline(file, count);
  if (!file.is_open() || (count.empty() && file.eof())) return true;
  std::getline(file, comment);
  return count.find_first_not_of("0123456789") == std::string::npos && comment.find(kColumnsOfAll) != std::string::npos;
}

}  // namespace so3krates::deck
