#include "xla_flags.h"

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

// Whether a C string of the file ends so.
bool names(const std::string& library, const std::string& flag) {
  return library.find(flag + '\0') != std::string::npos;
}

}  // namespace

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
    const std::size_t start = word.find_first_not_of('-');
    if (word[0] != '-') continue;
    const std::string flag = start == std::string::npos ? word : word.substr(start, word.find('=') - start);
    if (start == std::string::npos || !names(library, flag))
      throw Error("XLA_FLAGS has " + word + ", a flag that " + plugin +
                  " does not know: mend or unset XLA_FLAGS, as XLA would end the program");
  }
}

}  // namespace so3krates
