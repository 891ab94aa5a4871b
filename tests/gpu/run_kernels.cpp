// Runs every GPU kernel on the host for a few made-up rows and prints what they compute. Macros: SIZES, the definitions
// of a network (so3krates_export/cuda.py); HOST_CUDA, the path of host_cuda.h. Arguments: the first row, even, and the
// number of rows that are computed, with a first row at most two. The arrays in front of it are there, but no page is.
#include SIZES
#include HOST_CUDA

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels.cu"

namespace so3krates {
alignas(64) unsigned char shared_memory[MATRIX_BYTES + 2 * (TILE_BYTES + ADJOINT_BYTES)];
}

using namespace so3krates;

namespace {

constexpr unsigned kWarps = 2;
constexpr int kRows = 7, kSlots = 64, kCandidates = 192;
std::size_t first_row = 0;
std::mt19937 generator(1);

// `rows` rows of `width` zeros from the first row on; the pointer is to row 0.
template <typename T>
T* rows_of(std::size_t width, std::size_t rows = kRows) {
  if (first_row == 0) return new T[rows * width]();  // with nothing behind it, for AddressSanitizer
  const std::size_t bytes = (first_row + rows) * width * sizeof(T);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    std::perror("mmap");
    std::exit(2);
  }
  return static_cast<T*>(data);
}
template <typename T>
T* random_rows(std::size_t width, double scale) {
  std::normal_distribution<double> normal;
  T* data = rows_of<T>(width);
  for (std::size_t k = first_row * width; k < (first_row + kRows) * width; ++k)
    data[k] = static_cast<T>(scale * normal(generator));
  return data;
}
std::vector<Real> weights(std::size_t count, double scale) {
  std::normal_distribution<double> normal;
  std::vector<Real> data(count);
  for (Real& value : data) value = static_cast<Real>(scale * normal(generator));
  return data;
}
int some(int below) {
  return static_cast<int>(generator() % static_cast<unsigned>(below));
}
int some_row() {
  return static_cast<int>(first_row) + some(kRows);
}

template <auto kernel>
void run(void** values) {
  host_cuda::call(kernel, values);
}
// The last block of a grid that begins with row 0: of the only one where that is the block's first, so that its warps
// visit several rows each, which is what shows races.
template <auto kernel, typename... Arguments>
void launch(std::size_t block, Arguments... arguments) {
  void* values[] = {&arguments...};
  const unsigned first = static_cast<unsigned>(block);
  host_cuda::launch_blocks(run<kernel>, first, first + 1, first + 1, kWarps * host_cuda::kWarp, values);
}

template <typename T>
void print(const char* name, const T* data, std::size_t width, std::size_t first, std::size_t rows) {
  double sum = 0, squares = 0;
  for (std::size_t k = first * width; k < (first + rows) * width; ++k) {
    sum += static_cast<double>(data[k]);
    squares += static_cast<double>(data[k]) * static_cast<double>(data[k]);
  }
  std::printf("%s %.17g %.17g\n", name, sum, squares);
}

}  // namespace

int main(int, char** arguments) {
  first_row = static_cast<std::size_t>(std::atol(arguments[1]));
  const int computed = std::atoi(arguments[2]);
  const int owned = static_cast<int>(first_row) + computed;
  const std::size_t block = first_row / kWarps;

  std::vector<Real> table = weights(std::size_t{NODES} * kFilterStride, 0.1);
  std::vector<Real> hidden_in = weights((DEGREES + 1) * HIDDEN_STRIDE, 0.5);
  std::vector<Real> hidden_out = weights(std::size_t{HIDDEN} * kFilterStride, 0.2);
  std::vector<Real> first_table = weights(std::size_t{ELEMENTS} * ELEMENTS * NODES * 8, 0.1);
  Real* x = random_rows<Real>(FEATURE_STRIDE, 1);
  Real* chi = random_rows<Real>(ORDER_STRIDE, 1);
  Real* projections = random_rows<Real>(kRowStride, 0.3);
  Real* adjoints = random_rows<Real>(CHANNELS * kMessageStride, 0.3);
  Real* coefficients = random_rows<Real>(CHANNELS * ELEMENTS * 4, 0.3);
  Real* vectors = random_rows<Real>(kSlots * 3, 1.6);
  double* positions = random_rows<double>(3, 2);
  int *neighbour_rows = rows_of<int>(kSlots), *species = rows_of<int>(1), *counts = rows_of<int>(1);
  int *row_of_atom = rows_of<int>(1), *atom_of_row = rows_of<int>(1);
  int *candidates = rows_of<int>(kCandidates), *candidate_counts = rows_of<int>(1);
  const int some_counts[kRows] = {17, 5, 16, 0, 37, 40, 3};  // of tiles of 8 and 16: none, whole ones, parts
  for (std::size_t k = 0; k < kRows; ++k) {
    const std::size_t row = first_row + k;
    species[row] = some(ELEMENTS);
    counts[row] = some_counts[k];
    candidate_counts[row] = 50;
    row_of_atom[row] = atom_of_row[row] = static_cast<int>(row);
    for (std::size_t s = 0; s < kSlots; ++s) neighbour_rows[row * kSlots + s] = some_row();
    for (std::size_t s = 0; s < kCandidates; ++s) candidates[row * kCandidates + s] = some_row();
  }
  const long long first = static_cast<long long>(first_row);
  long long capacities[4] = {kCandidates, kSlots, first, kRows};
  const double *no_forces = nullptr, *no_virials = nullptr;
  double *forces = rows_of<double>(3), *virials = rows_of<double>(9);

  Real* found = rows_of<Real>(kSlots * 3);
  int *found_rows = rows_of<int>(kSlots), *found_counts = rows_of<int>(1);
  launch<neighbours>(block, positions, row_of_atom, atom_of_row, candidates, candidate_counts, capacities, &owned,
                     static_cast<Real*>(nullptr), static_cast<int*>(nullptr), static_cast<int*>(nullptr), found,
                     found_rows, found_counts);
  print("vectors", found, kSlots * 3, first_row, kRows);
  print("counts", found_counts, 1, first_row, kRows);

  Real *heads = rows_of<Real>(ELEMENTS * 4), *first_chi = rows_of<Real>(ORDER_STRIDE);
  launch<first_messages>(block, first_table.data(), species, vectors, neighbour_rows, counts, capacities, &owned, heads,
                         first_chi);
  print("first_messages", heads, ELEMENTS * 4, first_row, kRows);
  print("first_messages chi", first_chi, ORDER_STRIDE, first_row, kRows);

  double* strains = rows_of<double>(9);
#if CHANNELS == 4
#define VIRIALS , virials
#define NO_VIRIALS , no_virials
#else
#define VIRIALS
#define NO_VIRIALS
#endif
  launch<first_messages_adjoint>(block, first_table.data(), species, adjoints, coefficients, vectors, neighbour_rows,
                                 counts, capacities, &owned, no_forces NO_VIRIALS, strains, forces VIRIALS);
  print("first_messages_adjoint", forces, 3, first_row, kRows);
  print("first_messages_adjoint strains", strains, 9, first_row, kRows);

  Real *next_x = rows_of<Real>(FEATURE_STRIDE), *attended = rows_of<Real>(ORDER_STRIDE);
  launch<messages>(block, table.data(), hidden_in.data(), hidden_out.data(), x, chi, projections, vectors,
                   neighbour_rows, counts, capacities, &owned, next_x, attended);
  print("messages", next_x, FEATURE_STRIDE, first_row, kRows);
  print("messages chi", attended, ORDER_STRIDE, first_row, kRows);

  // The results by row count from the first row that is visited.
  std::vector<Real> gradients(std::size_t{kRows} * CHANNELS * kRowStride);
  std::vector<double> row_strains(9 * kRows);
  launch<messages_adjoint>(0, table.data(), hidden_in.data(), hidden_out.data(), projections, adjoints, vectors,
                           neighbour_rows, counts, capacities, &owned, no_forces NO_VIRIALS, gradients.data(),
                           row_strains.data(), forces VIRIALS);
  print("messages_adjoint", gradients.data(), CHANNELS * kRowStride, 0, kRows);
  print("messages_adjoint forces", forces, 3, first_row, kRows);
  print("messages_adjoint virials", virials, 9, first_row, kRows);

#ifdef LONG_CELLS
  // Atoms in two columns of cells, more than a lane or a queue holds in the second; the last cell has those beyond.
  constexpr int kPlaces = 120, kCells = 4, kCounts[] = {1, 2, 2};
  constexpr double kEdge = 4;  // A
  const double box[] = {-kEdge / 2, -kEdge, -kEdge, kEdge};
  int places_of[kPlaces], begins[kPlaces];
  for (int k = 0; k < kPlaces; ++k) places_of[k] = k < 5 ? 0 : k < 8 ? 1 : k < 80 ? 2 : k < 110 ? 3 : kCells;
  long long places = kPlaces;
  int cells = kCells;
  launch<cell_begins>(0, places_of, &places, &cells, begins);
  std::vector<double> place_positions(3 * kPlaces);
  std::uniform_real_distribution<double> within(0, 1);
  for (int k = 0; k < kPlaces; ++k)
    for (int a = 0; a < 3; ++a) {
      const int side = a == 0 ? 0 : a == 1 ? places_of[k] / 2 : places_of[k] % 2;
      place_positions[3 * k + a] = box[a] + (side + within(generator)) * box[3];
    }
  const auto values_of = [](Real* to) {
    to[0] = static_cast<Real>(some(100) - 50) / 100;
    to[1] = static_cast<Real>(some(100) + 1) / 10;
    to[2] = static_cast<Real>(some(100) + 1) / 30;
    to[3] = static_cast<Real>(some(100) + 1) / 10;
  };
  std::vector<Real> place_values(4 * kPlaces), long_table = weights(std::size_t{2} * (LONG_CELLS + 1) * 4, 0.1);
  for (int k = 0; k < kPlaces; ++k) values_of(place_values.data() + 4 * k);
  Real* row_values = rows_of<Real>(4);
  for (std::size_t row = first_row; row < first_row + kRows; ++row) values_of(row_values + 4 * row);
  double *charge_slopes = rows_of<double>(1), *ratio_slopes = rows_of<double>(1), *atom_energies = rows_of<double>(1);
  double* long_forces = rows_of<double>(3);
  double* sums = rows_of<double>(8);
  launch<long_pairs>(block, long_table.data(), positions, atom_of_row, row_values, place_positions.data(),
                     place_values.data(), begins, kCounts, box, &owned, no_forces, no_forces, charge_slopes,
                     ratio_slopes, sums, atom_energies, long_forces);
  print("long_pairs slopes", charge_slopes, 1, first_row, kRows);
  print("long_pairs ratios", ratio_slopes, 1, first_row, kRows);
  print("long_pairs sums", sums, 8, first_row, kRows);
  print("long_pairs energies", atom_energies, 1, first_row, kRows);
  print("long_pairs forces", long_forces, 3, first_row, kRows);
#endif
}
