// The evaluator's rows that belong to other ranks: they come from their owners, by a halo.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "cuda_driver.h"
#include "evaluator_implementation.h"

namespace so3krates {
namespace {

constexpr std::size_t kOneChunk = std::numeric_limits<std::size_t>::max() / 2;

// Rows in memory, `whole` to a chunk.
struct Rows {
  std::size_t row_bytes, whole;
  char* const* chunks;
};

// Messages of `count` rows from `here` on, which begin at `there` on the other side: cut where a chunk ends on either.
void add_messages(std::vector<Message>& messages, int rank, const Rows& rows, std::size_t here, std::size_t there,
                  std::size_t count) {
  for (std::size_t end = here + count, n; here < end; here += n, there += n) {
    n = std::min({end - here, rows.whole - here % rows.whole, rows.whole - there % rows.whole});
    messages.push_back({rank, rows.chunks[here / rows.whole] + here % rows.whole * rows.row_bytes, n * rows.row_bytes});
  }
}

// What to send and to receive of some arrays.
struct Messages {
  std::vector<Message> sent, received;

  void add(const std::vector<Peer>& peers, const Rows& own, const Rows& others) {
    std::size_t to = 0, from = 0;
    for (const Peer& peer : peers) {
      add_messages(sent, peer.rank, own, to, peer.sent_place, peer.sent_count);
      add_messages(received, peer.rank, others, from, peer.received_place, peer.received_count);
      to += peer.sent_count;
      from += peer.received_count;
    }
  }
};

}  // namespace

std::size_t Evaluator::Implementation::row_bytes_of(const std::string& name) const {
  const std::vector<std::int64_t> shape = shape_of(name);
  return bytes_of({shape.begin() + 1, shape.end()}, bundle_.buffers.at(name).dtype);
}

std::vector<std::int64_t> Evaluator::Implementation::chunk_shape(const std::string& name) const {
  std::vector<std::int64_t> shape = shape_of(name);
  shape[0] = bundle_.moves.rows;
  return shape;
}

void Evaluator::Implementation::keep_peers(const Neighbourhood& n) {
  row_lists_.clear();
  starts_.clear();
  std::vector<Peer> peers(n.peers, n.peers + n.peer_count);
  std::vector<int> sent;  // `n` may lie in what this replaces
  for (const Peer& peer : peers) sent.insert(sent.end(), peer.sent, peer.sent + peer.sent_count);
  sent_ = sent.size();
  const auto whole = static_cast<std::size_t>(bundle_.moves.rows);
  if (whole > 0) sent.resize((sent_ + whole - 1) / whole * whole);
  sent_rows_ = std::move(sent);
  peers_ = std::move(peers);
  const int* next = sent_rows_.data();
  for (Peer& peer : peers_) {
    peer.sent = next;
    next += peer.sent_count;
  }
  if (whole == 0) return;
  for (std::size_t k = 0; k < sent_; k += whole)
    row_lists_.push_back(client_->borrow(sent_rows_.data() + k, DType::i32, {bundle_.moves.rows}));
  start_rows_.clear();
  for (int row = owned_; row < rows_; row += static_cast<int>(whole)) start_rows_.push_back(row);
  for (const int& row : start_rows_) starts_.push_back(client_->borrow(&row, DType::i32, {}));
}

void Evaluator::Implementation::refresh(const std::vector<std::string>& names, Halo& halo) {
  if (bundle_.moves.rows > 0)
    refresh_by_moves(names, halo);
  else
    refresh_in_place(names, halo);
  for (const std::string& name : names)
    report_.halo_bytes += row_bytes_of(name) * static_cast<std::size_t>(rows_ - owned_);
}

// A rank without owned rows has computed no sums: it adds nothing.
void Evaluator::Implementation::reduce(const std::vector<std::string>& names, Halo& halo) {
  if (!halo.adds_up())
    throw Error(bundle_.path +
                ": adds up charges over all atoms, which this host does on one rank alone: run on one rank, whose "
                "threads may use all cores");
  for (const std::string& name : names) {
    const bool is_on_device = bundle_.moves.rows > 0;
    const std::size_t count = bytes_of(shape_of(name), DType::f64) / sizeof(double);
    std::vector<double>& sums = sums_[name];  // which the device reads until this evaluation ends
    sums.assign(count, 0.0);
    double* values = sums.data();
    if (owned_ > 0) {
      const Stopwatch watch(report_.program_seconds);  // waits for the programs
      if (is_on_device)
        buffer(name).download(values, count * sizeof(double));
      else
        values = static_cast<double*>(buffer(name).host_pointer());
      if (values == nullptr) throw Error(bundle_.path + ": sums over ranks are not there on " + bundle_.platform);
    }
    const Stopwatch watch(report_.halo_seconds);
    halo.reduce(values, count);
    if (owned_ > 0 && is_on_device) buffers_[name] = client_->borrow(values, DType::f64, shape_of(name));
  }
}

// Where arrays lie in host memory: rows of others are received into them.
void Evaluator::Implementation::refresh_in_place(const std::vector<std::string>& names, Halo& halo) {
  std::size_t sent_bytes = 0;
  std::vector<char*> arrays;
  {
    const Stopwatch watch(report_.program_seconds);  // waits for the programs
    for (const std::string& name : names) {
      arrays.push_back(static_cast<char*>(buffer(name).host_pointer()));
      if (arrays.back() == nullptr)
        throw Error(bundle_.path + ": has no programs that move rows between " + bundle_.platform +
                    " devices, which several ranks need: export the model again with this version of so3krates");
      sent_bytes += sent_ * row_bytes_of(name);
    }
  }
  const Stopwatch watch(report_.halo_seconds);
  gathered_.resize(sent_bytes);
  char* next = gathered_.data();
  Messages messages;
  for (std::size_t a = 0; a < names.size(); ++a) {
    const std::size_t row_bytes = row_bytes_of(names[a]);
    char* const others = arrays[a] + static_cast<std::size_t>(owned_) * row_bytes;
    messages.add(peers_, {row_bytes, kOneChunk, &next}, {row_bytes, kOneChunk, &others});
    for (std::size_t k = 0; k < sent_; ++k, next += row_bytes)
      std::memcpy(next, arrays[a] + sent_rows_[k] * row_bytes, row_bytes);
  }
  halo.exchange(messages.sent, messages.received);
}

// Whether chunks are exchanged in the device's own memory.
bool Evaluator::Implementation::is_direct(const std::vector<std::string>& names, const Halo& halo) {
  if (!halo.takes_device_memory()) return false;
  if (client_->platform() != "cuda" || !halo.takes_only_shareable()) return true;
  if (!is_shareable_) {
    const pjrt::Buffer chunk = client_->allocate(bundle_.buffers.at(names.front()).dtype, chunk_shape(names.front()));
    is_shareable_ = cuda::is_shareable(chunk.device_pointer());
    if (!*is_shareable_)
      report_.halo_problem =
          "other processes of this machine cannot open XLA's GPU memory (legacy CUDA IPC). If MPI needs no such "
          "memory, write: gpu/aware yes";
  }
  return *is_shareable_;
}

// Where they do not: the device gathers the rows that others read, in chunks, and puts those that come, in chunks, into
// their places. Chunks are exchanged in its own memory where the halo takes that, else in the host's.
void Evaluator::Implementation::refresh_by_moves(const std::vector<std::string>& names, Halo& halo) {
  const bool is_direct = this->is_direct(names, halo);
  const auto whole = static_cast<std::size_t>(bundle_.moves.rows);
  std::vector<pjrt::Buffer> taken;
  {
    const Stopwatch watch(report_.program_seconds);
    for (const std::string& name : names)
      for (const pjrt::Buffer& list : row_lists_) {
        const std::string& take = bundle_.moves.of.at(name).first;
        taken.push_back(std::move(program(take).run({&buffer(name), &list}).at(0)));
        require(taken.back(), take, name, chunk_shape(name));
      }
    for (const pjrt::Buffer& chunk : taken) chunk.wait();
    if (taken.empty() && !starts_.empty())
      for (const std::string& name : names) buffer(name).wait();
  }
  const Stopwatch watch(report_.halo_seconds);
  std::vector<char*> own, others;
  std::vector<pjrt::Buffer*> received;
  if (is_direct) {
    if (client_->platform() == "cuda") cuda::make_current(device_index_);
    for (const pjrt::Buffer& chunk : taken) own.push_back(static_cast<char*>(chunk.device_pointer()));
    received = chunks_to_receive(names);
    for (pjrt::Buffer* chunk : received) others.push_back(static_cast<char*>(chunk->device_pointer()));
    report_.halo_memory = "device memory";
  } else {
    own = download(names, taken);
    others = chunks_of(received_staging_, names, starts_.size());
    const Staging& staging = row_lists_.empty() ? received_staging_ : sent_staging_;
    report_.halo_memory = staging.pin ? "pinned host memory" : "host memory";
  }
  Messages messages;
  for (std::size_t a = 0; a < names.size(); ++a)
    messages.add(peers_, {row_bytes_of(names[a]), whole, own.data() + a * row_lists_.size()},
                 {row_bytes_of(names[a]), whole, others.data() + a * starts_.size()});
  // The device has read what is overwritten now.
  uploads_.clear();
  puts_.clear();
  halo.exchange(messages.sent, messages.received);
  auto next = received.begin();
  for (std::size_t a = 0; a < names.size(); ++a)
    for (std::size_t k = 0; k < starts_.size(); ++k) {
      if (!is_direct)
        uploads_.push_back(
            client_->borrow(others[a * starts_.size() + k], bundle_.buffers.at(names[a]).dtype, chunk_shape(names[a])));
      const pjrt::Buffer& chunk = is_direct ? **next++ : uploads_.back();
      pjrt::Buffer& array = buffer(names[a]);
      const std::string& put = bundle_.moves.of.at(names[a]).second;
      array = std::move(program(put).run({&array, &chunk, &starts_[k]}).at(0));
      require(array, put, names[a], shape_of(names[a]));
      if (is_direct) puts_.push_back(array.ready());
    }
}

// The chunks of each array in the device's memory, shared between refreshes.
std::vector<pjrt::Buffer*> Evaluator::Implementation::chunks_to_receive(const std::vector<std::string>& names) {
  std::map<std::string, std::size_t> used;
  std::vector<pjrt::Buffer*> found;
  for (const std::string& name : names)
    for (std::size_t k = 0; k < starts_.size(); ++k) {
      const std::string& put = bundle_.moves.of.at(name).second;
      pjrt::Buffer& chunk = chunks_[{put, used[put]++}];
      if (!chunk) chunk = client_->allocate(bundle_.buffers.at(name).dtype, chunk_shape(name));
      found.push_back(&chunk);
    }
  return found;
}

// The same in the host's.
std::vector<char*> Evaluator::Implementation::chunks_of(Staging& staging, const std::vector<std::string>& names,
                                                        std::size_t count) {
  std::vector<std::size_t> places;
  std::size_t bytes = 0;
  for (const std::string& name : names)
    for (std::size_t k = 0; k < count; ++k) {
      places.push_back(bytes);
      bytes += padded(bytes_of(chunk_shape(name), bundle_.buffers.at(name).dtype));
    }
  if (bytes > staging.bytes) {
    uploads_.clear();  // may lie there
    staging.pin = {};
    staging.memory = allocate_host(bytes);
    staging.bytes = bytes;
    staging.pin = pinned(staging.memory.get(), bytes);
  }
  std::vector<char*> chunks;
  for (const std::size_t place : places) chunks.push_back(static_cast<char*>(staging.memory.get()) + place);
  return chunks;
}

// Chunks of rows in host memory.
std::vector<char*> Evaluator::Implementation::download(const std::vector<std::string>& names,
                                                       const std::vector<pjrt::Buffer>& taken) {
  const auto whole = static_cast<std::size_t>(bundle_.moves.rows);
  const std::vector<char*> chunks = chunks_of(sent_staging_, names, row_lists_.size());
  std::vector<pjrt::Pending> downloads;
  for (std::size_t c = 0; c < taken.size(); ++c) {
    const std::size_t rows = std::min(whole, sent_ - c % row_lists_.size() * whole);
    downloads.push_back(taken[c].start_download(chunks[c], rows * row_bytes_of(names[c / row_lists_.size()])));
  }
  for (pjrt::Pending& download : downloads) download.wait();
  return chunks;
}

// Nothing where that cannot be: the device then goes by way of its plugin's own memory.
pjrt::Pin Evaluator::Implementation::pinned(void* data, std::size_t bytes) {
  try {
    return client_->pin(data, bytes);
  } catch (const Error& problem) {
    report_.pin_problem = problem.what();
    return {};
  }
}

}  // namespace so3krates
