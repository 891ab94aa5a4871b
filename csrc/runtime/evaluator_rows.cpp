// The evaluator's rows that belong to other ranks: they come from a halo, by host memory.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "evaluator_implementation.h"

namespace so3krates {

void Evaluator::Implementation::upload_sent(const Neighbourhood& n) {
  sent_buffers_.clear();
  sent_rows_.clear();
  sent_ = 0;
  if (bundle_.moves.rows == 0 || (n.sent == nullptr && n.rows == n.owned)) return;
  const auto whole = static_cast<std::size_t>(bundle_.moves.rows);
  sent_rows_.resize(static_cast<std::size_t>(n.owned));
  std::iota(sent_rows_.begin(), sent_rows_.end(), 0);
  if (n.sent != nullptr) sent_rows_.assign(n.sent, n.sent + n.sent_count);
  sent_ = sent_rows_.size();
  sent_rows_.resize((sent_ + whole - 1) / whole * whole);
  for (std::size_t start = 0; start < sent_; start += whole)
    sent_buffers_.push_back(client_->borrow(sent_rows_.data() + start, DType::i32, {bundle_.moves.rows}));
}

// Rows that other ranks read, in their places in host memory.
std::vector<RowArray> Evaluator::Implementation::take_rows(const std::vector<std::string>& names) {
  uploads_.clear();  // the device has read what is written below
  const auto whole = static_cast<std::size_t>(bundle_.moves.rows);
  std::vector<RowArray> arrays;
  std::vector<std::vector<char>> moved;
  std::vector<pjrt::Download> downloads;
  std::vector<pjrt::Buffer> taken;
  for (const std::string& name : names) {
    const DType dtype = bundle_.buffers.at(name).dtype;
    const std::vector<std::int64_t> shape = shape_of(name);
    const std::size_t row_bytes = bytes_of_row(shape, dtype);
    HostMemory& memory = refresh_memory_[name];
    if (!memory) memory = allocate_host(bytes_of(shape, dtype));
    arrays.push_back({memory.get(), row_bytes});
    moved.emplace_back(sent_ * row_bytes);
    for (std::size_t k = 0; k < sent_buffers_.size(); ++k) {
      auto results = program(bundle_.moves.of.at(name).first).run({&buffer(name), &sent_buffers_[k]});
      taken.push_back(std::move(results.at(0)));
      const std::size_t rows = std::min(whole, sent_ - k * whole);
      downloads.push_back(taken.back().start_download(moved.back().data() + k * whole * row_bytes, rows * row_bytes));
    }
  }
  for (pjrt::Download& download : downloads) download.wait();
  for (std::size_t a = 0; a < arrays.size(); ++a)
    for (std::size_t k = 0; k < sent_; ++k)
      std::memcpy(static_cast<char*>(arrays[a].data) + static_cast<std::size_t>(sent_rows_[k]) * arrays[a].row_bytes,
                  moved[a].data() + k * arrays[a].row_bytes, arrays[a].row_bytes);
  return arrays;
}

// Rows of other ranks, which lie one after the other.
void Evaluator::Implementation::put_rows(const std::vector<std::string>& names, const std::vector<RowArray>& arrays) {
  const int whole = static_cast<int>(bundle_.moves.rows);
  starts_.clear();
  for (int start = owned_; start < rows_; start += whole) starts_.push_back(start);
  for (std::size_t a = 0; a < names.size(); ++a) {
    std::vector<std::int64_t> shape = shape_of(names[a]);
    shape[0] = whole;
    for (const int& start : starts_) {
      const char* rows =
          static_cast<const char*>(arrays[a].data) + static_cast<std::size_t>(start) * arrays[a].row_bytes;
      pjrt::Buffer chunk = client_->borrow(rows, bundle_.buffers.at(names[a]).dtype, shape);
      pjrt::Buffer place = client_->borrow(&start, DType::i32, {});
      pjrt::Buffer& array = buffer(names[a]);
      auto results = program(bundle_.moves.of.at(names[a]).second).run({&array, &chunk, &place});
      array = std::move(results.at(0));
      uploads_.push_back(std::move(chunk));
      uploads_.push_back(std::move(place));
    }
  }
}

void Evaluator::Implementation::refresh(const std::vector<std::string>& names, Halo& halo) {
  if (bundle_.moves.rows > 0) {
    std::vector<RowArray> arrays;
    {
      const Stopwatch watch(report_.program_seconds);
      arrays = take_rows(names);
    }
    const Stopwatch watch(report_.halo_seconds);
    halo.refresh(arrays, owned_, rows_);
    for (const RowArray& array : arrays)
      report_.halo_bytes += array.row_bytes * static_cast<std::size_t>(rows_ - owned_);
    put_rows(names, arrays);
    return;
  }
  std::vector<RowArray> arrays;
  for (const std::string& name : names) {
    const Stopwatch watch(report_.program_seconds);  // waits for the programs
    arrays.push_back(in_host_memory(name));
    report_.halo_bytes += arrays.back().row_bytes * static_cast<std::size_t>(rows_ - owned_);
  }
  const Stopwatch watch(report_.halo_seconds);
  halo.refresh(arrays, owned_, rows_);
  for (std::size_t k = 0; k < names.size(); ++k) {
    pjrt::Buffer& rows = buffer(names[k]);
    if (rows.host_pointer() == nullptr)
      rows = client_->borrow(arrays[k].data, bundle_.buffers.at(names[k]).dtype, shape_of(names[k]));
  }
}

// On a CPU the array itself, elsewhere a copy.
RowArray Evaluator::Implementation::in_host_memory(const std::string& name) {
  const DType dtype = bundle_.buffers.at(name).dtype;
  const std::vector<std::int64_t> shape = shape_of(name);
  const std::size_t row_bytes = bytes_of_row(shape, dtype);
  pjrt::Buffer& rows = buffer(name);
  if (const void* data = rows.host_pointer()) return {const_cast<void*>(data), row_bytes};
  HostMemory& memory = refresh_memory_[name];
  if (!memory) memory = allocate_host(bytes_of(shape, dtype));
  rows.download(memory.get(), row_bytes * static_cast<std::size_t>(rows_));
  return {memory.get(), row_bytes};
}

}  // namespace so3krates
