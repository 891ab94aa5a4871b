// An entry is a file named after its key: magic, key, payload's length (8 bytes, little endian), payload's SHA-256,
// payload.
#include "program_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "environment.h"
#include "sha256.h"

namespace so3krates {
namespace {

namespace fs = std::filesystem;

const std::string kMagic = "so3krates program 2\n";  // another number where programs are compiled with other options
constexpr off_t kLargestEntry = off_t{1} << 31;      // bytes
constexpr std::chrono::seconds kLongestWait{60};     // for a process that compiles, which may have been stopped
constexpr std::chrono::milliseconds kLook{10};

std::string length_bytes(std::uint64_t length) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(length >> shift & 0xff);
  return bytes;
}

std::string header(const std::string& key, const std::string& program) {
  return kMagic + key + length_bytes(program.size()) + sha256_hex(program.data(), program.size());
}

fs::path default_folder() {
  if (const std::string folder = variable("SO3KRATES_CACHE"); !folder.empty()) return folder;
  if (const std::string folder = variable("XDG_CACHE_HOME"); !folder.empty()) return fs::path(folder) / "so3krates";
  if (const std::string folder = variable("HOME"); !folder.empty()) return fs::path(folder) / ".cache" / "so3krates";
  return {};
}

std::string system_message() {
  return std::generic_category().message(errno);
}

// Only the folders that are missing are made, and only for this user.
void create_private(const fs::path& folder) {
  if (folder.empty() || fs::is_directory(folder)) return;
  create_private(folder.parent_path());
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    throw Error("making " + folder.string() + " failed: " + system_message());
}

void write_all(int file, const std::string& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t written = write(file, bytes.data() + done, bytes.size() - done);
    if (written < 0 && errno != EINTR) throw Error(system_message());
    if (written > 0) done += static_cast<std::size_t>(written);
  }
}

struct File {
  int descriptor;
  ~File() {
    if (descriptor >= 0) close(descriptor);
  }
};

// Nothing where there is no file. Throws Error where there is something that cannot be read: a folder, a pipe, a disc
// that fails.
std::optional<std::string> read_whole(const fs::path& path) {
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.descriptor < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    throw Error(system_message());
  }
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  if (status.type() == fs::file_type::not_found) return std::nullopt;  // taken away just now
  if (fs::is_directory(status)) throw Error("it is a folder");
  if (!fs::is_regular_file(status)) throw Error("it is no file");
  // Of the file that is open, which may be another by now than that of `path`.
  const off_t size = lseek(file.descriptor, 0, SEEK_END);
  if (size < 0 || lseek(file.descriptor, 0, SEEK_SET) != 0) throw Error(system_message());
  if (size > kLargestEntry) throw Error("it has " + std::to_string(size) + " bytes");
  std::string bytes(static_cast<std::size_t>(size), '\0');
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t got = read(file.descriptor, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno != EINTR) throw Error(system_message());
    if (got == 0) bytes.resize(done);
    if (got > 0) done += static_cast<std::size_t>(got);
  }
  return bytes;
}

// Readers see the old file or the new one, never a part.
void replace(const fs::path& path, const std::string& bytes) {
  std::string temporary = path.string() + ".XXXXXX";
  const int file = mkstemp(temporary.data());
  if (file < 0) throw Error("writing in " + path.parent_path().string() + " failed: " + system_message());
  try {
    write_all(file, bytes);
    if (close(file) != 0 || std::rename(temporary.c_str(), path.c_str()) != 0) throw Error(system_message());
  } catch (const Error& failure) {
    unlink(temporary.c_str());
    throw Error("writing " + path.string() + " failed: " + failure.what());
  }
}

std::string key_of(const pjrt::Client& client, const std::uint8_t* artifact, std::size_t bytes) {
  const std::string fingerprint = client.fingerprint();
  const std::string prefix = kMagic + length_bytes(fingerprint.size()) + fingerprint;
  Sha256 hash;
  hash.update(prefix.data(), prefix.size());
  hash.update(artifact, bytes);
  return hash.hex();
}

}  // namespace

ProgramCache::ProgramCache(const std::string& folder) {
  folder_ = folder.empty() ? default_folder() : fs::path(folder);
  if (folder_ == "off") {
    folder_.clear();
    return;
  }
  if (folder_.empty()) warn("none of SO3KRATES_CACHE, XDG_CACHE_HOME and HOME is set");
}

void ProgramCache::warn(const std::string& reason) {
  if (!warning_.empty()) return;  // the first says most
  warning_ =
      "compiled programs are not kept for the next start: " + reason + " (SO3KRATES_CACHE may name another folder)";
}

fs::path ProgramCache::file(const std::string& key) const {
  return folder_ / (key + ".program");
}

std::optional<std::string> ProgramCache::find(const std::string& key) {
  if (!is_on()) return std::nullopt;
  try {
    const std::optional<std::string> bytes = read_whole(file(key));
    if (!bytes) return std::nullopt;
    const std::size_t start = kMagic.size() + key.size() + 8 + 64;
    if (bytes->size() < start) throw Error("it is cut short");
    std::string program = bytes->substr(start);
    if (bytes->compare(0, start, header(key, program)) != 0) throw Error("it is damaged, or of another program");
    return program;
  } catch (const std::exception& failure) {
    warn_of(key, failure.what());
    return std::nullopt;
  }
}

void ProgramCache::warn_of(const std::string& key, const std::string& reason) {
  if (warning_.empty())
    warning_ = "a compiled program was not taken from " + file(key).string() + ", but compiled anew: " + reason;
}

void ProgramCache::store(const std::string& key, const std::string& program) {
  if (!is_on()) return;
  try {
    create_private(folder_);
    replace(file(key), header(key, program) + program);
  } catch (const std::exception& failure) {
    warn(failure.what());
  }
}

ProgramCache::Turn::Turn(const ProgramCache& cache, const std::string& key) {
  if (!cache.is_on()) return;
  try {
    create_private(cache.folder_);
  } catch (const std::exception&) {
    return;  // said where the program is stored
  }
  file_ = cache.folder_ / (key + ".turn");
  descriptor_ = open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, 0600);
  const auto end = std::chrono::steady_clock::now() + kLongestWait;
  while (descriptor_ >= 0 && flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    std::error_code failure;
    const int reason = errno;
    if (reason == EWOULDBLOCK && !fs::exists(cache.file(key), failure) && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(kLook);
    } else if (reason != EINTR) {
      close(descriptor_);
      descriptor_ = -1;
    }
    waited_ = true;
  }
}

ProgramCache::Turn::~Turn() {
  if (descriptor_ < 0) return;
  unlink(file_.c_str());
  close(descriptor_);
}

pjrt::Executable compile_or_load(pjrt::Client& client, ProgramCache& cache, const std::uint8_t* artifact,
                                 std::size_t bytes, const std::string& name, bool* loaded) {
  const std::string key = cache.is_on() ? key_of(client, artifact, bytes) : "";
  const auto load = [&]() -> std::optional<pjrt::Executable> {
    const std::optional<std::string> program = cache.find(key);
    if (!program) return std::nullopt;
    try {
      return client.load(*program, name);
    } catch (const Error& failure) {  // it is replaced below
      cache.warn_of(key, failure.what());
      return std::nullopt;
    }
  };
  std::optional<pjrt::Executable> found = load();
  std::optional<ProgramCache::Turn> turn;
  if (!found) {
    turn.emplace(cache, key);
    if (turn->waited()) found = load();
  }
  if (loaded != nullptr) *loaded = found.has_value();
  if (found) return std::move(*found);
  pjrt::Executable executable = client.compile(artifact, bytes, name);
  if (cache.is_on()) {
    try {
      cache.store(key, executable.serialise());
    } catch (const Error& failure) {
      cache.warn(failure.what());
    }
  }
  return executable;
}

}  // namespace so3krates
