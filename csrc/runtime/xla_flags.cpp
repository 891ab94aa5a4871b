#include "xla_flags.h"

#include <strings.h>

#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "environment.h"
#include "error.h"

namespace so3krates {
namespace {

// Empty where it cannot be read. Plugins have hundreds of megabytes: read at once.
std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file.tellg();
  std::string content(size > 0 ? static_cast<std::size_t>(size) : 0, '\0');
  file.seekg(0);
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<std::size_t>(file.gcount()));
  return content;
}

// Whether a C string of the file ends in this word.
bool names(const std::string& library, const std::string& flag) {
  std::size_t at = library.find(flag + '\0');
  while (at != std::string::npos && at > 0 && (std::isalnum(library[at - 1] & 0xff) != 0 || library[at - 1] == '_'))
    at = library.find(flag + '\0', at + 1);
  return at != std::string::npos;
}

// A word with its size before it, as protocol buffers write it.
std::string sized(const std::string& word) {
  return static_cast<char>(word.size()) + word;
}

// Whether the plugin has this flag. Its words are C strings, but so are keys of other options. XLA's flags are also the
// fields of its options, or were (their names are kept: 10), but for a few that only matter to GPUs.
bool is_flag(const std::string& library, const std::string& word) {
  if (!names(library, word)) return false;
  return word.rfind("xla_gpu_", 0) == 0 || library.find('\n' + sized(word) + '\x18') != std::string::npos ||
         library.find('R' + sized(word)) != std::string::npos;
}

// What a flag's value may be, and whether this one may; nothing is said of names and lists.
struct Values {
  const char* description;
  bool (*may_be)(const std::string& value);
};

bool is_truth(const std::string& value) {
  for (const char* known : {"true", "false", "1", "0"})
    if (strcasecmp(value.c_str(), known) == 0) return true;
  return false;
}

template <long long Low, long long High>
bool is_whole(const std::string& value) {
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(value.c_str(), &end, 10);
  return !value.empty() && *end == '\0' && errno == 0 && number >= Low && number <= High;
}

bool is_real(const std::string& value) {
  char* end = nullptr;
  std::strtod(value.c_str(), &end);
  return !value.empty() && *end == '\0';
}

// By the description of XLA's options that its library carries, as protocol buffers write it: a field's name (1), its
// number (3), label (4) and type (5), one after the other. Null where it is not there.
const Values* values_of(const std::string& library, const std::string& flag) {
  static const Values truth{"true or false", is_truth}, real{"a number", is_real},
      whole{"a whole number", is_whole<INT32_MIN, INT32_MAX>}, large{"a whole number", is_whole<INT64_MIN, INT64_MAX>};
  const std::string start = '\n' + sized(flag) + '\x18';
  std::size_t at = library.find(start);
  if (at == std::string::npos) return nullptr;
  at += start.size();
  while (at < library.size() && (library[at] & 0x80) != 0) ++at;  // a number goes on
  if (at + 4 >= library.size() || library[at + 1] != '\x20' || library[at + 3] != '\x28') return nullptr;
  switch (library[at + 4]) {
    case 1:
    case 2:
      return &real;
    case 3:
      return &large;
    case 5:
      return &whole;
    case 8:
      return &truth;
    default:
      return nullptr;
  }
}

std::string without_quotes(const std::string& value) {
  const bool is_quoted = value.size() > 1 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
  return is_quoted ? value.substr(1, value.size() - 2) : value;
}

}  // namespace

bool has_flag(const std::string& plugin, const std::string& flag) {
  return names(content_of(plugin), flag);
}

void check_xla_flags(const std::string& plugin) {
  std::string flags = variable("XLA_FLAGS");
  if (flags.empty()) return;
  const std::size_t first = flags.find_first_not_of(" \t\n\r");
  if (first == std::string::npos || flags[first] != '-') {  // XLA takes the name of a file, too
    if (!std::ifstream(flags))
      throw Error("XLA_FLAGS is '" + flags +
                  "', neither flags with -- nor a file that can be read: mend or unset XLA_FLAGS, as XLA would end the "
                  "program");
    flags = content_of(flags);
  }
  const std::string library = content_of(plugin);
  if (!names(library, "xla_dump_to")) return;  // its flags are in another library
  std::istringstream words(flags);
  for (std::string word; words >> word;) {
    if (word[0] != '-') continue;
    const std::size_t end = word.find('=');
    const std::string flag = word.substr(0, 2) == "--" ? word.substr(2, end == std::string::npos ? end : end - 2) : "";
    if (flag.empty() || !is_flag(library, flag))
      throw Error("XLA_FLAGS has " + word + ", a flag that " + plugin +
                  " does not know: mend or unset XLA_FLAGS, as XLA would end the program");
    const Values* values = values_of(library, flag);
    if (values == nullptr || (end == std::string::npos && values->may_be("true"))) continue;
    if (end == std::string::npos || !values->may_be(without_quotes(word.substr(end + 1))))
      throw Error("XLA_FLAGS has " + word + ", but the value of this flag is " + values->description +
                  ": mend or unset XLA_FLAGS, as XLA would end the program");
  }
}

}  // namespace so3krates
